"use strict";
// Teaching: the five steps on what is drawn, and what they cost.

const trained = structuredClone([fc1, fc2]); // as lesson 3 left them
const SHARED = 16; // old examples beside a drawing
const LESSON = { steps: 50, rate: 0.01, own: 32, old: 64 }; // for all that was kept
let tests = []; // stored examples { image, pixels, label }: of the test set,
let rehearsal = []; // and of the training set
let rightAsTrained = 0;
let teaching = false; // while all that was kept is being taught

const parameters = sum([fc1, fc2].map((layer) => layer.bias.length * (layer.weight[0].length + 1)));
const tell = (text) => write("told", text);
const bestOf = (logits) => {
  const named = logits.slice(0, classes.length);
  return named.indexOf(Math.max(...named));
};
const countRight = (examples) =>
  examples.filter(({ pixels, label }) => bestOf(forward(pixels).logits) === label).length;

function pick(number, examples) {
  const rest = [...examples];
  const draw = () => rest.splice(Math.floor(Math.random() * rest.length), 1)[0];
  return Array.from({ length: Math.min(number, rest.length) }, draw);
}

// --- What was it? ------------------------------------------------------------------------------

const labelButtons = classes.map((label) => make("button", "", $("label"), data.classes[label]));
connect(labelButtons, (label) => {
  drawing.label = label;
  update();
});

function showTeaching() {
  labelButtons.forEach((button, label) => (button.ariaPressed = label === drawing.label));
}
// Says what is missing, if there is no drawing or no label yet.
function isLabelled() {
  if (image && drawing.label !== undefined) return true;
  tell(image ? "First say what it was: choose a digit above." : "First draw a digit.");
  return false;
}

// --- One step ----------------------------------------------------------------------------------

// The loss and the share of the right class, for one example.
function judge({ pixels, label }) {
  const { logits } = forward(pixels);
  return { loss: crossEntropy(logits, label), share: softmax(logits)[label], answer: bestOf(logits) };
}

$("teach").onclick = () => {
  if (teaching || !isLabelled()) return;
  const rate = Number($("rate").value);
  const example = { pixels: normalize(image), label: drawing.label };
  const others = $("among").checked ? pick(SHARED, rehearsal) : [];
  const [before, rightBefore] = [judge(example), countRight(tests)];
  const { results, loss } = train([example, ...others], rate);
  const [after, rightAfter] = [judge(example), countRight(tests)];
  const name = data.classes[example.label];
  showTable("gain", [
    ["", ["before", "now"]],
    ["Loss", [before.loss.toFixed(3), after.loss.toFixed(3)]],
    [`Share of ${name}`, [short(before.share), short(after.share)]],
    [`Right of ${tests.length} test digits`, [rightBefore, rightAfter]],
  ]);
  showSteps(example, before, results, loss, rate);
  showChange(others.length + 1, rate);
  $("taught").hidden = false;
  const lost = rightBefore - rightAfter;
  tell(
    `${name} now gets ${percent(after.share)}. Of ${tests.length} test digits it reads ` +
      `${rightAfter} right; as it was trained, ${rightAsTrained}.` +
      (lost > 10 ? " So large a step ruins what it knew." : ""),
  );
  update();
};
$("among").onchange = () => ($("rate").value = $("among").checked ? "0.01" : "0.001");

function showSteps(example, before, results, loss, rate) {
  const [answer, name] = [data.classes[before.answer], data.classes[example.label]];
  const dark = fc1.bias.filter((_, i) => results.every(({ sums }) => sums[i] <= 0)).length;
  const zeros = dark * (fc1.weight[0].length + 1 + fc2.bias.length);
  const slopes = [gradients.fc1, gradients.fc2].flatMap(({ weight, bias }) => [...weight, bias]);
  const largest = Math.max(...slopes.map((row) => Math.max(...row.map(Math.abs))));
  const share = before.share < 0.001 ? before.share.toExponential(1) : before.share.toFixed(3);
  const batch = results.length > 1;
  const texts = {
    zero_grad: `all ${count(parameters)} gradients start from 0.`,
    forward: `it says ${answer}, and gives ${name} a share of ${percent(before.share)}` +
      (batch ? `; ${results.length - 1} others go through with it.` : "."),
    loss: `minus the logarithm of that share: \u2212ln ${share} = ${before.loss.toFixed(3)}` +
      (batch ? `; the mean of all ${results.length}: ${loss.toFixed(3)}.` : "."),
    backward: `a gradient for every weight. ${count(zeros)} of them are 0, because their neuron ` +
      (batch ? "is dark for all of these." : "is dark."),
    step: `every weight moves by \u2212${rate} times its gradient, at most by ` +
      `${(rate * largest).toPrecision(2)}.`,
  };
  $("steps").replaceChildren();
  for (const [name, text] of Object.entries(texts)) {
    const item = make("li", "", $("steps"));
    make("b", "", item, name);
    item.append(`: ${text}`);
  }
}

// The neuron whose weights moved farthest. A weight's gradient is that of the neuron's sum times
// the pixel: so for one drawing, the change is the drawing itself, times one number.
function showChange(examples, rate) {
  const { weight, bias } = gradients.fc1;
  const lengths = weight.map((row) => dot(row, row));
  const neuron = lengths.indexOf(Math.max(...lengths));
  paint($("change"), redAndBlue([...weight[neuron]].map((slope) => -slope)));
  const moved = (-rate * bias[neuron]).toPrecision(2).replace("-", "\u2212");
  const what = !lengths[neuron] ? "No neuron changed."
    : `Neuron ${data.shown.includes(neuron) ? neuron : `${neuron} (not shown)`} changed most.`;
  write("changed", `${what} Red: its weights grew; blue: they shrank. ` +
    (examples > 1 ? `The pattern is a mixture of the ${examples} images.`
      : `The pattern is your drawing, each normalized pixel times ${moved}.`));
}

// --- All that was kept -------------------------------------------------------------------------

$("teach-all").onclick = async () => {
  const own = [...cells];
  if (teaching) return;
  if (!own.length) return write("shelf", "Nothing is kept yet: draw, say what it was, keep it.");
  const before = [countRight(own), countRight(tests)];
  teaching = true;
  $("progress").hidden = false;
  write("shelf", `Teaching ${own.length} kept ones, each time among ${LESSON.old} old ones \u2026`);
  for (let done = 0; done < LESSON.steps; done++) {
    $("progress").value = done / LESSON.steps;
    await new Promise((go) => setTimeout(go)); // let the browser draw the progress
    train([...pick(LESSON.own, own), ...pick(LESSON.old, rehearsal)], LESSON.rate);
  }
  $("progress").hidden = true;
  teaching = false;
  update();
  write(
    "shelf",
    `${LESSON.steps} steps. Of ${own.length} kept ones ${before[0]} were right, now ` +
      `${countRight(own)}; of ${tests.length} test digits ${before[1]}, now ${countRight(tests)}.`,
  );
};

$("reset").onclick = () => {
  if (teaching) return;
  [fc1, fc2].forEach((layer, i) => {
    layer.weight.forEach((row, neuron) => row.set(trained[i].weight[neuron]));
    layer.bias.set(trained[i].bias);
  });
  $("taught").hidden = true;
  tell(`It is as it was trained: ${rightAsTrained} of ${tests.length} test digits right.`);
  update();
};
