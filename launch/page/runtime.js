// Runs the graphs of a model with onnxruntime-web: by WebGPU where it is there and computes what WASM does, else by WASM.

import { normal, key } from "./threefry.js";

const TOLERANCE = 1e-3; // of predictions, whose pixels are about 1

// The smallest module that has an instruction of SIMD: a function that makes a vector and drops it.
const SIMD = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 4, 1, 96, 0, 0, 3, 2, 1, 0, 10, 9, 1, 7, 0, 65, 0, 253, 15, 26, 11,
]);

/** Whether this browser has what onnxruntime-web needs. */
export const hasSimd = () => typeof WebAssembly === "object" && WebAssembly.validate(SIMD);

/**
 * What predicts: {denoise(stage, x, t, label), provider, notice}, guided as the model says; notice tells why WebGPU is not
 * taken though there is one. tell(text) hears what is going on.
 */
export async function openModel(model, tell) {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  const ort = await import(adapter ? "./ort/ort.webgpu.min.mjs" : "./ort/ort.wasm.min.mjs");
  ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
  ort.env.wasm.numThreads = 1; // more ask for headers that static hosts do not send
  ort.env.logLevel = "error";
  tell("loading the weights");
  const weights = await bytes("graphs/weights.bin");
  const graphs = await Promise.all(model.stages.map(({ name }) => bytes(`graphs/${name}.onnx`)));
  const open = (provider) => openDenoiser(ort, model, graphs, weights, provider);
  tell("preparing WASM");
  const wasm = { denoise: await open("wasm"), provider: "WASM", notice: "" };
  if (!adapter) return wasm;
  tell("comparing WebGPU with WASM");
  try {
    const denoise = await open("webgpu");
    const difference = await greatestDifference(model, denoise, wasm.denoise);
    if (difference <= TOLERANCE) return { denoise, provider: "WebGPU", notice: "" };
    const off = Number.isNaN(difference) ? "predictions that are no numbers" : `predictions that are ${difference.toPrecision(2)} off`;
    return { ...wasm, notice: `WebGPU computes ${off} in this browser, so WASM draws.` };
  } catch (error) {
    return { ...wasm, notice: `WebGPU fails in this browser, so WASM draws: ${error.message.split("\n")[0]}` };
  }
}

/** A denoiser of one provider of onnxruntime; with guidance both predictions come from one call, as in the library. */
async function openDenoiser(ort, model, graphs, weights, provider) {
  const { guidance, null_label: nullLabel, classes, channels } = model;
  const batch = guidance === 1 ? 1 : 2;
  const sessions = new Map();
  for (const [i, { name }] of model.stages.entries()) {
    const options = {
      executionProviders: [provider],
      externalData: [{ path: "weights.bin", data: weights }],
      freeDimensionOverrides: { batch },
    };
    sessions.set(name, await ort.InferenceSession.create(graphs[i], options));
  }
  return async (stage, x, t, label) => {
    const twins = new Float32Array(batch * x.data.length);
    for (let i = 0; i < batch; i++) twins.set(x.data, i * x.data.length);
    const inputs = {
      x: new ort.Tensor("float32", twins, [batch, ...x.shape]),
      t: new ort.Tensor("int32", new Int32Array(batch).fill(t), [batch]),
    };
    if (classes.length) inputs.label = new ort.Tensor("int32", Int32Array.of(label, nullLabel).slice(0, batch), [batch]);
    const { z } = await sessions.get(stage.name).run(inputs);
    const predicted = await z.getData();
    const size = predicted.length / batch;
    const data = predicted.slice(0, size);
    if (batch === 2) for (let i = 0; i < size; i++) data[i] += (guidance - 1) * (data[i] - predicted[size + i]);
    return { shape: [...stage.out_shape, channels], data };
  };
}

/** Of any pixel between two denoisers' predictions from white noise, in the first call of every stage. */
async function greatestDifference(model, one, other) {
  let greatest = 0;
  for (const stage of model.stages) {
    const shape = [...stage.in_shape, model.channels];
    const x = { shape, data: normal(key(0), shape[0] * shape[1] * shape[2]) };
    const [z, expected] = [await one(stage, x, stage.t_max, 0), await other(stage, x, stage.t_max, 0)];
    z.data.forEach((value, i) => (greatest = Math.max(greatest, Math.abs(value - expected.data[i]))));
  }
  return greatest;
}

/** A file beside the page. Throws an error that names it if it does not come. */
export async function file(name) {
  const answer = await fetch(new URL(name, import.meta.url)).catch(() => null);
  if (!answer?.ok) throw new Error(`${name} cannot be loaded (${answer?.status ?? "no answer"}); python -m launch.demo serves it.`);
  return answer;
}

const bytes = async (name) => new Uint8Array(await (await file(name)).arrayBuffer());
