// node draw.mjs PAGE SOLVER CALLS SEED: the image of a denoiser that is a formula, and noise of the seed, as JSON.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, solver, calls, seed] = process.argv.slice(2);
const imported = (name) => import(pathToFileURL(join(folder, name)));
const json = async (name) => JSON.parse(await readFile(join(folder, name), "utf8"));
const { readPlan, sample } = await imported("sampler.js");
const { foldIn, key, normal } = await imported("threefry.js");

/** 1.2 sin(2 x + t / 10), where an up-step repeats pixels. */
async function denoise({ in_shape: [, columns], out_shape: [height, width] }, x, t) {
  const channels = x.shape[2];
  const data = new Float32Array(height * width * channels);
  for (let i = 0; i < data.length; i++) {
    const [row, column] = [Math.floor(i / channels / width), Math.floor(i / channels) % width];
    const factor = width / columns;
    const from = (Math.floor(row / factor) * columns + Math.floor(column / factor)) * channels + (i % channels);
    data[i] = 1.2 * Math.sin(2 * x.data[from] + t / 10);
  }
  return { shape: [height, width, channels], data };
}

const plan = readPlan(await json(`plans/${solver}-${calls}.json`));
let last = null;
let count = 0;
for await (last of sample(await json("model.json"), plan, denoise, Number(seed))) count += 1;
const noise = normal(foldIn(key(Number(seed)), 5), 1000);
console.log(JSON.stringify({ calls: count, shape: last.next.shape, image: [...last.next.data], noise: [...noise] }));
