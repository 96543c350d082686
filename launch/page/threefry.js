// The noise of the library: what jax.random draws of a key, from the same counters (Salmon et al. 2011).
// Keys are pairs of whole numbers below 2^32.

const ROTATIONS = [
  [13, 15, 26, 6],
  [17, 29, 16, 24],
];
const LOWEST = -1 + 2 ** -24; // the float32 after -1

// Coefficients of erfinv for float32 (Giles 2012), highest power first, as XLA has them.
const CENTRAL = [
  2.81022636e-8, 3.43273939e-7, -3.5233877e-6, -4.39150654e-6, 0.00021858087, -0.00125372503, -0.00417768164,
  0.246640727, 1.50140941,
];
const TAIL = [
  -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613, 0.00943887047,
  1.00167406, 2.83297682,
];

/** The key of a seed below 2^32: jax.random.key. */
export const key = (seed) => [0, seed >>> 0];

/** A key of a key and a number below 2^32: jax.random.fold_in. */
export const foldIn = (from, number) => threefry(from, key(number));

/** count numbers of N(0, 1), Float32Array: jax.random.normal of any shape of so many elements. */
export function normal(from, count) {
  const drawn = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    const [high, low] = threefry(from, [0, i]);
    const unit = ((high ^ low) >>> 9) / 2 ** 23; // 0 to 1, as all 23 bits of a float32's fraction can say it
    const uniform = Math.max(LOWEST, Math.fround(Math.fround(unit * 2) + LOWEST));
    drawn[i] = Math.SQRT2 * erfinv(uniform);
  }
  return drawn;
}

/** Threefry-2x32 of 20 rounds: the counter's two words, encrypted by the key. */
export function threefry([k0, k1], [c0, c1]) {
  const keys = [k0, k1, k0 ^ k1 ^ 0x1bd11bda];
  let [a, b] = [(c0 + k0) | 0, (c1 + k1) | 0];
  for (let round = 0; round < 5; round++) {
    for (const bits of ROTATIONS[round % 2]) {
      a = (a + b) | 0;
      b = a ^ ((b << bits) | (b >>> (32 - bits)));
    }
    a = (a + keys[(round + 1) % 3]) | 0;
    b = (b + keys[(round + 2) % 3] + round + 1) | 0;
  }
  return [a >>> 0, b >>> 0];
}

function erfinv(x) {
  const w = -Math.log1p(-Math.fround(x * x)); // rounded, or the tail is another than in float32
  const [coefficients, v] = w < 5 ? [CENTRAL, w - 2.5] : [TAIL, Math.sqrt(w) - 3];
  return x * coefficients.reduce((sum, coefficient) => sum * v + coefficient);
}
