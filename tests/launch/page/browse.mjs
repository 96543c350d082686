// node browse.mjs SETTINGS: opens the page in Chromium, draws, and tells what there is to see, as JSON. SETTINGS is JSON:
//     playwright, chromium    where they are
//     url                     of the page
//     choices                 of the form, by name; nothing is drawn if there are none
//     simd                    false for a browser that has none
//     webgpu                  how far the predictions of a made-up WebGPU are off, or "fails"; null for none

import { createRequire } from "node:module";

const { playwright, chromium: executablePath, url, choices, simd, webgpu } = JSON.parse(process.argv[2]);
const { chromium } = createRequire(import.meta.url)(playwright);
const TIMEOUT = { timeout: 120_000 };

// Stands in for onnxruntime-web's build with WebGPU.
const WEBGPU = (off) => `
  import * as ort from "./ort.wasm.min.mjs";
  export const { env, Tensor } = ort;
  async function create(graph, { executionProviders: [provider], ...options }) {
    const session = await ort.InferenceSession.create(graph, { ...options, executionProviders: ["wasm"] });
    if (provider === "wasm") return session;
    if (${JSON.stringify(off)} === "fails") throw new Error("no such device");
    const run = async (inputs) => {
      const { z } = await session.run(inputs);
      z.data[0] += ${off};
      return { z };
    };
    return { run };
  }
  export const InferenceSession = { create };
`;

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
try {
  const page = await browser.newPage({ viewport: { width: 375, height: 800 } });
  const [hosts, errors] = [new Set(), []];
  page.on("request", (request) => hosts.add(new URL(request.url()).host));
  page.on("pageerror", (error) => errors.push(error.message));
  if (!simd) await page.addInitScript(() => (WebAssembly.validate = () => false));
  await page.addInitScript((gpu) => Object.defineProperty(navigator, "gpu", { value: gpu ? { requestAdapter: async () => ({}) } : undefined }), webgpu !== null);
  await page.route("**/ort.webgpu.min.mjs", (route) => route.fulfill({ contentType: "text/javascript", body: WEBGPU(webgpu) }));
  await page.goto(url);
  const usable = "form button:not([disabled])";
  await page.waitForSelector(`${usable}, #notice:not([hidden])`, TIMEOUT);
  const status = await page.textContent("#status");
  if (choices) {
    await page.waitForSelector(usable, TIMEOUT);
    for (const [name, value] of Object.entries(choices)) {
      const field = page.locator(`[name=${name}]`);
      await (name === "seed" ? field.fill(value) : field.selectOption(value));
    }
    await page.click("form button");
    await page.waitForFunction(() => document.getElementById("status").textContent.startsWith("drawn"), null, TIMEOUT);
  }
  const seen = await page.evaluate(() => {
    const pixels = (canvas) => [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data];
    const scenes = [...document.querySelectorAll("#film li")].map((scene) => ({
      sizes: [...scene.querySelectorAll("canvas")].map((canvas) => canvas.width),
      text: scene.textContent,
    }));
    return {
      image: pixels(document.getElementById("state")),
      prediction: pixels(document.getElementById("prediction")),
      scenes,
      notice: document.getElementById("notice").textContent,
      saved: document.getElementById("saved").textContent,
      text: document.body.innerText,
      width: document.documentElement.scrollWidth,
      drawable: !document.querySelector("form button").disabled,
    };
  });
  console.log(JSON.stringify({ ...seen, status, hosts: [...hosts], errors }));
} finally {
  await browser.close();
}
