"use strict";
// The stored examples, the proof, and the start.

async function inflate(base64) {
  const stream = new Blob([bytes(base64)]).stream();
  const inflated = stream.pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(inflated).arrayBuffer());
}
async function unpack({ images, labels, sounds }) {
  const greys = await inflate(images);
  const examples = labels.map((label, i) => {
    const row = (y) => [...greys.subarray(784 * i + 28 * y, 784 * i + 28 * (y + 1))];
    const image = Array.from({ length: 28 }, (_, y) => row(y));
    return { image, label, pixels: normalize(image) };
  });
  const samples = [...new Int16Array((await inflate(sounds.samples)).buffer)];
  sounds.places.forEach((place, i) => {
    const sound = samples.splice(0, sounds.lengths[i]);
    examples[place].samples = Float32Array.from(sound, (sample) => sample / 32768);
  });
  return examples;
}

// Buttons that put stored examples onto the sheet.
function offer(examples, id) {
  const buttons = examples.map(({ image, label, pixels }) => {
    const button = make("button", "sample", $(id));
    const read = data.classes[likeliest(forward(pixels).logits)[0]];
    paint(makeCanvas(button), greys(image));
    const mistake = id === "mistakes" ? `${data.classes[label]} \u2192 ${read}` : "";
    if (mistake) make("span", "", button, mistake);
    button.ariaLabel = `${mistake} Test: ${data.classes[label]}, taken for ${read}`.trim();
    return button;
  });
  connect(buttons, (i) => choose(examples[i]));
}

// How far this page's logits, and its images of recordings, are from those of PyTorch.
function prove(examples, expected) {
  const logits = examples.flatMap(({ pixels }) => forward(pixels).logits);
  const gap = Math.max(1e-6, ...logits.map((logit, i) => Math.abs(logit - expected[i])));
  const differs = gap > 0.001;
  const warning =
    `Careful: this page differs from PyTorch by ${gap.toPrecision(2)}. Was SimpleNN changed? ` +
    "Then your network computes something else.";
  const off = examples.slice(0, data.examples.heard).flatMap(({ image, samples }) =>
    toImage(samples).map((grey, i) => Math.abs(grey - image.flat()[i])));
  const most = Math.max(...off); // of nothing, it is -Infinity
  const images = off.length ? ` Its images of recordings differ by at most ${most} of 255.` : "";
  const agrees = `\u2713 This page agrees with PyTorch to ${gap.toFixed(6)}.${images}`;
  $("proof").className = differs || most > 1 ? "warning" : "";
  write("proof", differs ? warning : agrees);
}

window.network = {
  ...hearing,
  logits: (pixels) => forward(pixels).logits,
  evidence: (pixels, digit) => evidence(forward(pixels), digit),
  step(pixels, label, rate) {
    const { loss } = train([{ pixels, label }], rate);
    update();
    return loss;
  },
};

async function start() {
  const stored = await unpack(data.examples);
  const { test, mistakes } = data.examples; // how many; the rest is from the training set
  tests = stored.slice(0, test);
  rehearsal = stored.slice(test + mistakes);
  prove(stored.slice(0, test + mistakes), floats(data.examples.logits));
  rightAsTrained = countRight(tests);
  offer(tests.slice(0, 10), "first");
  offer(stored.slice(test, test + mistakes), "mistakes");
  $("mistaken").hidden = !mistakes;
  write("about", data.about);
  write("credit", data.credit);
  document.querySelector("main").hidden = false;
  update();
}
start();
