// The page itself: choices, drawing, and what is shown of it.

import { file, hasSimd, openModel } from "./runtime.js";
import { readPlan, sample } from "./sampler.js";

const element = (id) => document.getElementById(id);
const form = element("choices");

const tell = (text) => (element("status").textContent = text);

function warn(text) {
  element("notice").textContent = text;
  element("notice").hidden = !text;
}

async function main() {
  if (!hasSimd()) {
    tell("");
    warn("This browser has no WebAssembly SIMD, which drawing needs; all browsers have had it since 2023: update it.");
    return;
  }
  tell("loading the model");
  const model = await (await file("model.json")).json();
  offer("label", model.classes.map((name, number) => [number, name]), 0);
  element("class-choice").hidden = !model.classes.length;
  offer("solver", model.solvers.map((name) => [name, name]), model.solver);
  offer("calls", model.calls.map((count) => [count, count]), model.num_steps);
  element("terms").append(...linked(model.terms));
  const { denoise, provider, notice } = await openModel(model, tell);
  warn(notice);
  tell(`ready, on ${provider}`);
  form.querySelector("button").disabled = false;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    draw(model, denoise, provider).catch(fail);
  });
}

async function draw(model, denoise, provider) {
  const { label, seed, solver, calls } = Object.fromEntries(new FormData(form));
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    const plan = readPlan(await (await file(`plans/${solver}-${calls}.json`)).json());
    element("film").replaceChildren();
    element("drawn").hidden = false;
    tellSaved(plan);
    const guided = (stage, x, t) => denoise(stage, x, t, Number(label));
    let made = 0;
    let total = 0;
    let scene = null;
    for await (const call of sample(model, plan, guided, Number(seed))) {
      made += 1;
      total += call.milliseconds;
      if (scene?.stage !== call.stage) scene = newScene(call.stage);
      scene.show(call);
      show(element("state"), made < Number(calls) ? call.x : call.next);
      show(element("prediction"), call.z);
      tell(`call ${made} of ${calls}, t = ${call.t}: ${sizes(call.stage)}, ${Math.round(total)} ms on ${provider}`);
      await new Promise((resume) => setTimeout(resume)); // lets the browser paint
    }
    tell(`drawn in ${Math.round(total)} ms on ${provider}`);
  } finally {
    button.disabled = false;
  }
}

/** A place in the film for a stage: its latest state, prediction, calls and time. */
function newScene(stage) {
  const [state, prediction] = [document.createElement("canvas"), document.createElement("canvas")];
  const caption = document.createElement("span");
  const item = document.createElement("li");
  item.append(state, prediction, caption);
  element("film").append(item);
  let calls = 0;
  let milliseconds = 0;
  const showCall = (call) => {
    calls += 1;
    milliseconds += call.milliseconds;
    show(state, call.x);
    show(prediction, call.z);
    caption.textContent = `${sizes(stage)}: ${calls} ${calls === 1 ? "call" : "calls"}, ${Math.round(milliseconds)} ms`;
  };
  return { stage, show: showCall };
}

function tellSaved({ stages, one_level_flops: oneLevel }) {
  const flops = stages.reduce((sum, stage) => sum + stage.flops, 0);
  const giga = (count) => (count / 1e9).toPrecision(3);
  const share = Math.round(100 * (1 - flops / oneLevel));
  element("saved").textContent =
    `${share} % of the work saved: ${giga(flops)} billion operations, where as many calls at full size take ${giga(oneLevel)}.`;
}

/** Shows an array whose values are -1 to 1, a pixel a pixel; the style enlarges it. */
function show(canvas, { shape: [height, width, channels], data }) {
  [canvas.width, canvas.height] = [width, height];
  const image = new ImageData(width, height);
  const value = (i) => (Math.min(Math.max(data[i], -1), 1) + 1) * 127.5; // which the image rounds
  for (let pixel = 0; pixel < width * height; pixel++) {
    const first = pixel * channels;
    const colour = channels === 1 ? [0, 0, 0] : [0, 1, 2];
    const opacity = channels === 4 ? value(first + 3) : 255;
    image.data.set([...colour.map((channel) => value(first + channel)), opacity], 4 * pixel);
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function offer(name, options, chosen) {
  form.elements[name].append(...options.map(([value, text]) => new Option(text, value, false, value === chosen)));
}

/** Text and links of a line of Markdown. */
function linked(text) {
  return text.split(/(\[[^\]]*\]\([^)]*\))/).map((piece) => {
    const [, words, address] = piece.match(/^\[(.*)\]\((.*)\)$/) ?? [];
    return address ? Object.assign(document.createElement("a"), { href: address, textContent: words }) : piece;
  });
}

const size = (shape) => (shape[0] === shape[1] ? shape[0] : shape.join("x"));
const sizes = ({ in_shape: from, out_shape: to }) => `${[...new Set([size(from), size(to)])].join(" to ")} px`;

function fail(error) {
  tell("");
  warn(`The page cannot go on: ${error.message}`);
}

main().catch(fail);
