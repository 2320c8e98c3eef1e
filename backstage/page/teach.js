"use strict";
// Teaching: the five steps on what is drawn, and what they cost.

const trained = structuredClone([fc1, fc2]); // as lesson 3 left them
const OTHERS = 16; // old examples among which one is taught
const ALL = { steps: 50, rate: 0.05, own: 32, old: 64 }; // for all that was kept; own, old: a batch
let tests = []; // stored examples { image, pixels, label }: of the test set,
let rehearsal = []; // and of the training set
let rightAsTrained = 0;
let teaching = false; // while all that was kept is being taught

$("rate").append(...["0.001", "0.01", "0.1"].map((rate) => new Option(rate)));
const tell = (text) => write("told", text);
const countRight = (examples) =>
  examples.filter(({ pixels, label }) => likeliest(forward(pixels).logits)[0] === label).length;

function pick(number, examples) {
  const rest = [...examples];
  const draw = () => rest.splice(Math.floor(Math.random() * rest.length), 1)[0];
  return Array.from({ length: Math.min(number, rest.length) }, draw);
}

const labelButtons = classes.map((label) => make("button", "", $("label"), data.classes[label]));
connect(labelButtons, (label) => {
  given.label = label;
  showLabel();
});
function showLabel() {
  labelButtons.forEach((button, label) => (button.ariaPressed = label === given.label));
}
// Says what is missing, if there is no image or no label yet.
function isLabelled() {
  if (image && given.label !== undefined) return true;
  tell(image ? `First say what it was: choose a ${THING} above.` : data.words.nothing);
  return false;
}

// --- One step
$("teach").onclick = () => {
  if (teaching || !isLabelled()) return;
  const rate = Number($("rate").value);
  const example = { pixels: normalize(image), label: given.label };
  const others = $("among").checked ? pick(OTHERS, rehearsal) : [];
  const measure = () => {
    const { logits } = forward(example.pixels);
    const share = softmax(logits)[example.label];
    return { loss: crossEntropy(logits, example.label), share, right: countRight(tests) };
  };
  const before = measure();
  const { results, loss } = train([example, ...others], rate);
  const now = measure();
  const name = data.classes[example.label];
  showTable("gain", [
    ["", ["before", "now"]],
    ["Loss", [before.loss.toFixed(3), now.loss.toFixed(3)]],
    [`Share of ${name}`, [short(before.share), short(now.share)]],
    [`Right of ${tests.length} ${data.words.tests}`, [before.right, now.right]],
  ]);
  showSteps(name, before, results, loss, rate);
  showChange(results.length, rate);
  $("taught").hidden = false;
  const ruin = before.right - now.right > 10 ? " So large a step ruins what it knew." : "";
  tell(
    `${name} now gets ${percent(now.share)}. Of ${tests.length} ${data.words.tests} it ` +
      `${data.words.reads} ${now.right} right; as it was trained, ${rightAsTrained}.${ruin}`,
  );
  update();
};
// Among others, an example counts less, and a larger step does less harm.
$("among").onchange = () => ($("rate").value = $("among").checked ? "0.01" : "0.001");

function showSteps(name, { share, loss }, results, mean, rate) {
  const answer = data.classes[likeliest(results[0].logits)[0]];
  const dark = fc1.bias.filter((_, i) => results.every(({ sums }) => sums[i] <= 0)).length;
  const zeros = dark * (fc1.weight[0].length + 1 + fc2.bias.length);
  const rows = [gradients.fc1, gradients.fc2].flatMap(({ weight, bias }) => [...weight, bias]);
  const farthest = rate * Math.max(...rows.map((row) => Math.max(...row.map(Math.abs))));
  const others = results.length - 1;
  const texts = {
    zero_grad: `all ${count(sum(rows.map((row) => row.length)))} gradients start from 0`,
    forward: `it says ${answer}, and gives ${name} a share of ${percent(share)}` +
      (others ? `; ${others} others go through with it` : ""),
    loss: `minus the logarithm of that share: \u2212ln ${share.toPrecision(3)} = ` +
      loss.toFixed(3) + (others ? `; the mean of all ${others + 1} is ${mean.toFixed(3)}` : ""),
    backward: `a gradient for every weight and bias. ${count(zeros)} are 0, because their neuron ` +
      `is dark${others ? " for all of these" : ""}`,
    step: `each moves by \u2212${rate} times its gradient, at most by ${farthest.toPrecision(2)}`,
  };
  $("steps").replaceChildren();
  for (const [name, text] of Object.entries(texts)) {
    const item = make("li", "", $("steps"));
    make("b", "", item, name);
    item.append(`: ${text}.`);
  }
}
// The neuron whose weights moved farthest. A weight's gradient is that of the neuron's sum times
// the pixel: so for one example, the change is its image, times one number.
function showChange(examples, rate) {
  const { weight, bias } = gradients.fc1;
  const lengths = weight.map((row) => dot(row, row));
  const neuron = lengths.indexOf(Math.max(...lengths));
  paint($("change"), redAndBlue([...weight[neuron]].map((slope) => -slope)));
  const factor = (-rate * bias[neuron]).toPrecision(2).replace("-", "\u2212");
  const what = examples > 1 ? `a mixture of the ${examples} images`
    : `your ${data.words.given}, each normalized pixel times ${factor}`;
  write("changed", `Neuron ${neuron} changed most. Red: its weights grew; blue: they shrank. ` +
    `The pattern is ${what}.`);
}

// --- All that was kept, and back
$("teach-all").onclick = async () => {
  const own = cells.filter(({ label }) => label !== undefined);
  if (teaching) return;
  if (!own.length) return shelve(cells.length ? NOT_YOU : NONE_KEPT);
  const before = [countRight(own), countRight(tests)];
  teaching = true;
  $("progress").hidden = false;
  for (let done = 0; done < ALL.steps; done++) {
    $("progress").value = done / ALL.steps;
    await new Promise((resume) => setTimeout(resume)); // the browser shows the progress
    train([...pick(ALL.own, own), ...pick(ALL.old, rehearsal)], ALL.rate);
  }
  $("progress").hidden = true;
  teaching = false;
  update();
  shelve(
    `${ALL.steps} steps, each with ${ALL.old} old examples. Of ${own.length} kept ones ` +
      `${before[0]} were right, now ${countRight(own)}; of ${tests.length} ${data.words.tests} ` +
      `${before[1]}, now ${countRight(tests)}.`,
  );
};
$("reset").onclick = () => {
  if (teaching) return;
  [fc1, fc2].forEach((layer, i) => {
    layer.weight.forEach((row, neuron) => row.set(trained[i].weight[neuron]));
    layer.bias.set(trained[i].bias);
  });
  $("taught").hidden = true;
  tell(`It is as it was trained: ${rightAsTrained} of ${tests.length} ${data.words.tests} right.`);
  update();
};
