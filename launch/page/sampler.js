// Draws an image as ssd_jax/sampling/reference.py does, with the tables of a plan (ssd_jax/interop/page.py).
// An array is {shape: [height, width, channels], data: Float32Array}; a matrix has a shape [rows, columns].

import { foldIn, key, normal } from "./threefry.js";

/** A plan whose arrays, in base64, are read. */
export function readPlan({ stages, ...others }) {
  const matrices = (part, name) => part[name].map(decoded);
  const read = stages.map((part) => ({
    ...part,
    coefficients: decoded(part.coefficients),
    left: matrices(part, "left"),
    right: matrices(part, "right"),
    target: matrices(part, "target"),
    lift: matrices(part, "lift"),
  }));
  return { ...others, stages: read };
}

/**
 * Image 0 of a seed, call by call: {stage, t, x, z, next, milliseconds}, with the state x at t, the prediction z of the
 * sharp image and the state after the step; the last `next` is the image.
 *
 * denoise(stage, x, t) gives a prediction, guided if need be, which is clipped here.
 */
export async function* sample(model, plan, denoise, seed) {
  const image = foldIn(key(seed), 0);
  const noise = (step, shape) => ({ shape, data: normal(foldIn(image, step), sizeOf(shape)) });
  const stages = new Map(model.stages.map((stage) => [stage.name, stage]));
  let x = noise(model.timesteps, [...model.stages[0].in_shape, model.channels]);
  let earlier = [];
  for (const part of plan.stages) {
    const stage = stages.get(part.stage);
    for (const [index, t] of part.timesteps.entries()) {
      const started = performance.now();
      const z = clipped(await denoise(stage, x, t), stage.bound);
      const next = step(part, index, x, z, earlier, noise(t, z.shape));
      earlier = [z, ...earlier.map((y) => alongAxes(y, part.lift))].slice(0, plan.carried);
      yield { stage, t, x, z, next, milliseconds: performance.now() - started };
      x = next;
    }
  }
}

/** V (k_x U^T x + k_z V^T z_s + k_1 U^T z_1 + .. + k_n xi): equation (6), within a level or up to the next. */
function step(part, index, x, z, earlier, xi) {
  const inward = part.left.map((u, axis) => padded(transposed(u), part.right[axis].shape[0]));
  const sharp = alongAxes(alongAxes(z, part.target), part.right.map(transposed));
  const missing = Array(part.coefficients.shape.at(-1) - 3 - earlier.length).fill(null); // not predicted yet
  const terms = [alongAxes(x, inward), sharp, ...earlier.map((y) => alongAxes(y, inward)), ...missing, xi];
  const channels = z.shape[2];
  const pixels = sizeOf(z.shape) / channels;
  const total = new Float32Array(sizeOf(z.shape));
  for (const [k, term] of terms.entries()) {
    for (let i = 0; term && i < total.length; i++) {
      const pixel = index * pixels + Math.floor(i / channels);
      total[i] += part.coefficients.data[pixel * terms.length + k] * term.data[i];
    }
  }
  return alongAxes({ shape: z.shape, data: total }, part.right);
}

/** Multiplies rows and columns of an image by a matrix each. */
export function alongAxes({ shape: [height, width, channels], data }, [rows, columns]) {
  const wide = product(rows, { shape: [height, width * channels], data });
  const shape = [rows.shape[0], columns.shape[0], channels];
  const result = new Float32Array(sizeOf(shape));
  for (let row = 0; row < shape[0]; row++) {
    const line = wide.data.subarray(row * width * channels, (row + 1) * width * channels);
    result.set(product(columns, { shape: [width, channels], data: line }).data, row * shape[1] * channels);
  }
  return { shape, data: result };
}

function product(left, right) {
  const [rows, inner] = left.shape;
  const columns = right.shape[1];
  const data = new Float32Array(rows * columns);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) {
      let sum = 0;
      for (let k = 0; k < inner; k++) sum += left.data[i * inner + k] * right.data[k * columns + j];
      data[i * columns + j] = sum;
    }
  }
  return { shape: [rows, columns], data };
}

function transposed({ shape: [rows, columns], data }) {
  return { shape: [columns, rows], data: data.map((_, i) => data[(i % rows) * columns + Math.floor(i / rows)]) };
}

/** A matrix with rows of zeros below: along the null space of M a state says nothing. */
function padded({ shape: [, columns], data }, rows) {
  const result = new Float32Array(rows * columns);
  result.set(data);
  return { shape: [rows, columns], data: result };
}

function clipped({ shape, data }, bound) {
  return { shape, data: data.map((value) => Math.min(Math.max(value, -bound), bound)) };
}

function decoded({ shape, float32 }) {
  const bytes = Uint8Array.from(atob(float32), (character) => character.charCodeAt(0));
  return { shape, data: new Float32Array(bytes.buffer) };
}

const sizeOf = (shape) => shape.reduce((size, length) => size * length, 1);
