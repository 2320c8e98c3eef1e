"use strict";
// The stored examples, the proof, and the start.

async function inflate(base64) {
  const stream = new Blob([bytes(base64)]).stream();
  const inflated = stream.pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(inflated).arrayBuffer());
}
async function unpack({ images, labels }) {
  const greys = await inflate(images);
  return labels.map((label, i) => {
    const row = (y) => [...greys.subarray(784 * i + 28 * y, 784 * i + 28 * (y + 1))];
    const image = Array.from({ length: 28 }, (_, y) => row(y));
    return { image, label, pixels: normalize(image) };
  });
}

// Buttons that put stored examples onto the sheet.
function offer(examples, id) {
  const buttons = examples.map(({ image, label, pixels }) => {
    const button = make("button", "sample", $(id));
    const read = data.classes[likeliest(forward(pixels).logits)[0]];
    paint(makeCanvas(button), greys(image));
    const mistake = id === "mistakes" ? `${data.classes[label]} \u2192 ${read}` : "";
    if (mistake) make("span", "", button, mistake);
    button.ariaLabel = `${mistake} Test digit ${data.classes[label]}, read as ${read}`.trim();
    return button;
  });
  connect(buttons, (i) => change({ sample: examples[i], strokes: [], label: examples[i].label }));
}

// How far this page's logits of the test digits are from those of PyTorch.
function prove(examples, expected) {
  const logits = examples.flatMap(({ pixels }) => forward(pixels).logits);
  const gap = Math.max(1e-6, ...logits.map((logit, i) => Math.abs(logit - expected[i])));
  const differs = gap > 0.001;
  const warning =
    `Careful: this page differs from PyTorch by ${gap.toPrecision(2)}. Was SimpleNN changed? ` +
    "Then your network computes something else.";
  $("proof").className = differs ? "warning" : "";
  const agrees = `\u2713 This page agrees with PyTorch to ${gap.toFixed(6)}.`;
  write("proof", differs ? warning : agrees);
}

$("clear").onclick = () => {
  chosen = {};
  change({ sample: null, strokes: [] });
};
$("undo").onclick = () => {
  drawing = earlier.pop() ?? drawing;
  update();
};

window.network = {
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
