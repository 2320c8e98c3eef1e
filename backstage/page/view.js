"use strict";
// What the page shows: the answer, the neurons, and why.

const $ = (id) => document.getElementById(id);
const classes = [...data.classes.keys()]; // the labels; what they mean is in data.classes
const THING = classes.length === 10 ? "digit" : "voice";
document.body.classList.toggle("names", THING === "voice");
const normalize = (image) =>
  image.map((row) => row.map((ink) => data.paper + (ink / 255) * (data.ink - data.paper)));

const likeliest = (logits) => [...classes].sort((a, b) => logits[b] - logits[a]);

let image = null; // what the network sees, 28 rows of 0 to 255
let result = null; // what forward() makes of that
let order = []; // the labels, the likeliest first
const hearing = {}; // what a network that hears can do besides
let chosen = {}; // what to look into: { neuron: 5 }, { digit: 4, rival: 9 } or {}, the answer
let pointed = null; // the same, while the mouse or the keyboard is there

// --- Pictures and numbers
// Paints 784 colours, and on them the ink, if given, as dots.
function paint(canvas, colours, ink = []) {
  const context = canvas.getContext("2d");
  const side = canvas.width / 28;
  const dot = (size, i) => {
    const [x, y] = [i % 28, Math.floor(i / 28)].map((place) => side * (place + 0.5) - size / 2);
    context.fillRect(x, y, size, size);
  };
  colours.forEach((colour, i) => {
    context.fillStyle = `rgb(${colour})`;
    dot(side, i);
  });
  context.fillStyle = "black";
  ink.flat().forEach((value, i) => dot((0.4 * side * value) / 255, i));
}
const greys = (image) => image.flat().map((grey) => [grey, grey, grey]);

// Red where a value is above 0, blue where it is below, on the image in grey.
const [PAPER, GREY, INK] = [[243, 241, 236], [196, 195, 192], [32, 36, 45]];
const [RED, BLUE] = [[194, 32, 47], [33, 102, 196]];
function redAndBlue(values, ink) {
  const mix = (from, to, share) => from.map((part, i) => part + share * (to[i] - part));
  const most = Math.max(...values.map(Math.abs)) || 1;
  return values.map((value, i) => {
    const ground = mix(PAPER, GREY, ink ? ink[i] / 255 : 0);
    return mix(ground, value > 0 ? RED : BLUE, Math.abs(value / most) ** 0.7);
  });
}

const count = (number) => number.toLocaleString("en");
const signed = (x) => (x < 0 ? "\u2212" : "+") + Math.abs(x).toFixed(2);
function percent(share) {
  const text = (100 * share).toFixed(1);
  if (text === "100.0" && share < 1) return "over 99.9%";
  return text === "0.0" && share > 0 ? "under 0.1%" : `${text}%`;
}
const short = (share) => percent(share).replace("over ", ">").replace("under ", "<");
const write = (id, text) => ($(id).textContent = text);

function make(tag, className, parent, text = "") {
  const made = parent.appendChild(document.createElement(tag));
  made.className = className;
  made.textContent = text;
  return made;
}
const makeCanvas = (parent) => setSize(make("canvas", "", parent), 28);
const setSize = (canvas, side) => Object.assign(canvas, { width: side, height: side });
["seen", "change"].forEach((id) => setSize($(id), 28));
setSize($("map"), 280); // finer, for the dots
function makeBar(tag, parent, name) {
  const bar = make(tag, "bar", parent);
  const label = make("span", "", bar, name);
  return { bar, label, fill: make("i", "", make("b", "", bar)), number: make("span", "", bar) };
}
// Rows of a name and its values; the name's class may be the key of a colour.
function showTable(id, rows) {
  $(id).replaceChildren();
  for (const [name, values, key = ""] of rows) {
    const row = make("tr", "", $(id));
    make(name ? "th" : "td", key, row, name); // the head's corner is empty
    for (const value of values) make("td", "", row, value);
  }
}
// Terms and their sum; the largest term is rounded so that what is shown adds up.
function showSum(terms, name) {
  const cents = terms.map(([, value]) => Math.round(100 * value));
  const total = Math.round(100 * sum(terms.map(([, value]) => value)));
  const sizes = cents.map(Math.abs);
  cents[sizes.indexOf(Math.max(...sizes))] += total - sum(cents);
  const rows = terms.map(([name, , key], i) => [name, [signed(cents[i] / 100)], key]);
  showTable("sum", [...rows, [name, [signed(total / 100)]]]);
}

// --- What can be chosen
// A group of buttons is one stop for the Tab key; arrow keys move inside it.
function connect(buttons, press, target = () => null) {
  buttons.forEach((button, i) => {
    const point = (there) => (event) => {
      if (event.pointerType === "touch") return; // fingers press, they do not hover
      pointed = there;
      look();
    };
    button.type = "button";
    button.tabIndex = i ? -1 : 0;
    button.onpointerenter = button.onfocus = point(target(i));
    button.onpointerleave = button.onblur = point(null);
    button.onclick = () => press(i);
    button.onkeydown = (event) => {
      const columns = buttons.filter((b) => b.offsetTop === buttons[0].offsetTop).length;
      const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
      const next = buttons[i + steps[event.key]];
      if (!next) return;
      event.preventDefault();
      [button.tabIndex, next.tabIndex] = [-1, 0];
      next.focus();
    };
  });
}
function connectTargets(buttons, target) {
  const choose = (i) => {
    const again = JSON.stringify(target(i)) === JSON.stringify(chosen);
    chosen = again ? {} : target(i); // twice lets go
    pointed = null;
    look();
  };
  connect(buttons, choose, target);
}
const voices = [...Array(10)].map(() => makeBar("div", $("voices"), ""));
const bars = classes.map((digit) => makeBar("button", $("digits"), data.classes[digit]));
const lamps = data.shown.map(() => make("i", "", make("button", "neuron", $("neurons"))));
const neurons = lamps.map((lamp) => lamp.parentNode);
connectTargets(bars.map(({ bar }) => bar), (digit) => ({ digit }));
connectTargets(neurons, (i) => ({ neuron: data.shown[i] }));

const PICKS = { digit: ["its answer"], rival: ["nothing", "second guess"] };
for (const [id, first] of Object.entries(PICKS)) {
  $(id).append(...first.map((text) => new Option(text)));
  $(id).append(...classes.map((digit) => new Option(data.classes[digit], digit)));
  $(id).onchange = () => {
    chosen = { digit: $("digit").value, rival: $("rival").value };
    look();
  };
}

// --- The answer
function update() {
  showGiven();
  const prepared = prepare();
  image = prepared.image;
  result = image && forward(normalize(image));
  order = result ? likeliest(result.logits) : [];
  paint($("seen"), greys(image ?? Array(784).fill(0)));
  const shares = result ? softmax(result.logits) : [];
  const guess = (place) => `${data.classes[order[place]]} (${percent(shares[order[place]])})`;
  const answer = result ? guess(0) : "Nothing yet";
  write("prediction", answer);
  // Read aloud when the stroke is done, not all along.
  write("spoken", !isBusy() && result ? `It ${data.words.reads} ${answer}` : "");
  write("note", result ? note(guess(1), prepared.hint) : data.words.waits);
  bars.forEach(({ bar, fill, number }, digit) => {
    bar.classList.toggle("best", digit === order[0]);
    fill.style.width = `${100 * (shares[digit] ?? 0)}%`;
    number.textContent = result ? short(shares[digit]) : "";
  });
  showNeurons();
  showLabel();
  $("invitation").hidden = result !== null;
  look();
}
function note(second, hint) {
  const label = given.strokes?.length ? undefined : given.sample?.label;
  const name = data.classes[label];
  if (hint) return hint;
  if (label === order[0]) return `Labelled ${name}: right. ${data.words.right}`;
  if (label !== undefined) return `Labelled ${name}: wrong. ${data.words.wrong}`;
  return `Second guess: ${second}.`;
}
function showNeurons() {
  const values = result?.hidden ?? fc1.bias.map(() => 0);
  const lit = values.filter((value) => value > 0).length;
  const all = `${count(values.length)} neurons`;
  const some = values.length > neurons.length ? `, ${neurons.length} are shown` : "";
  write("layer", (result ? `${count(lit)} of its ${all} are lit` : `Its ${all}`) + some);
  const brightest = Math.max(...values) || 1;
  lamps.forEach((lamp, i) => {
    const value = values[data.shown[i]];
    lamp.style.opacity = value / brightest;
    neurons[i].ariaLabel = `Neuron ${data.shown[i]}: ${value ? value.toFixed(2) : "dark"}`;
  });
}

// --- Why?
// Shows what is pointed at or chosen.
function look() {
  const { neuron, digit = "its answer", rival = "nothing" } = pointed ?? chosen;
  neurons.forEach((button, i) => (button.ariaPressed = data.shown[i] === neuron));
  bars.forEach(({ bar }, i) => (bar.ariaPressed = i === Number(digit)));
  for (const id in PICKS) $(id).parentNode.hidden = chosen.neuron !== undefined;
  $("sum").hidden = !result;
  [$("digit").value, $("rival").value] = [digit, rival];
  if (neuron !== undefined) return lookIntoNeuron(neuron);
  const named = { "its answer": order[0], "second guess": order[1], nothing: undefined };
  const meant = [digit, rival].map((name) => (name in named ? named[name] : Number(name)));
  if (result) return lookIntoDigit(...meant);
  paint($("map"), redAndBlue(Array(784).fill(0)));
  showVoices("", []);
  write("question", `Why this ${THING}?`);
  const colours = "will turn red where it speaks for the answer, and blue where against it.";
  write("meaning", `${data.words.ink} ${colours}`);
}
function lookIntoDigit(digit, rival = digit) {
  const compared = rival !== digit;
  const minus = (mine, other) => (compared ? mine - other : mine);
  const mine = evidence(result, digit);
  const other = compared ? evidence(result, rival) : mine;
  const values = mine.pixels.map((value, i) => minus(value, other.pixels[i]));
  const [name, second] = [data.classes[digit], data.classes[rival]];
  paint($("map"), redAndBlue(values, image.flat()));
  write("question", compared ? `Why ${name} and not ${second}?` : `Why ${name}?`);
  const { ink, blank, start } = data.words;
  const against = compared ? `${ink} for ${second}` : `${ink} against ${name}`;
  const terms = [
    [blank, minus(mine.start, other.start)],
    [`${ink} for ${name}`, sum(values.filter((value) => value > 0)), "red"],
    [against, sum(values.filter((value) => value < 0)), "blue"],
  ];
  showSum(terms, compared ? `Lead of ${name} over ${second}` : `Logit of ${name}`);
  const alone =
    `Red speaks for ${name}, blue against it, grey hardly matters. Counting starts from ` +
    `${start}. The ${THING} with the highest logit is the answer.`;
  write("meaning", compared ? rivalry(digit, rival) : alone);
  const spoken = result.hidden.map((value, neuron) =>
    [neuron, value * minus(fc2.weight[digit][neuron], fc2.weight[rival][neuron])]);
  spoken.sort(([, a], [, b]) => Math.abs(b) - Math.abs(a));
  showVoices("Neurons: value \u00d7 weight", spoken.slice(0, 10));
}
function rivalry(digit, rival) {
  const pair = order.filter((label) => label === digit || label === rival);
  const times = Math.exp(result.logits[pair[0]] - result.logits[pair[1]]);
  const [ahead, behind] = pair.map((label) => data.classes[label]);
  const rounded = count(Number(Math.min(times, 1e9).toPrecision(2)));
  return (
    `Red speaks for ${data.classes[digit]} rather than ${data.classes[rival]}, blue the ` +
    `other way round. So ${ahead} comes out ${rounded} times as likely as ${behind}.`
  );
}
function lookIntoNeuron(neuron) {
  const [bias, total] = [fc1.bias[neuron], result?.sums[neuron]];
  paint($("map"), redAndBlue([...fc1.weight[neuron]]), image ?? []);
  write("question", `Neuron ${neuron}`);
  if (result) showSum([["Bias", bias], ["Pixels \u00d7 weights", total - bias]], "Sum");
  const lit = "Above 0, so ReLU passes it on: the neuron is lit.";
  const dark = "Not above 0, so ReLU makes it 0: the neuron stays dark.";
  const state = result ? (total > 0 ? lit : dark) : "";
  const text = `${data.words.ink} on red raises the sum, on blue it lowers it. Few neurons look`;
  write("meaning", `${state} ${text} for a tidy shape; patches make sense only together.`);
  const told = classes.map((digit) => [data.classes[digit], fc2.weight[digit][neuron]]);
  showVoices(`What it tells the ${classes.length} ${THING}s`, told);
}
// Up to ten bars, [name, value], to the right where the value is above 0.
function showVoices(title, rows) {
  $("voices").hidden = !rows.length;
  write("speakers", title);
  const most = Math.max(...rows.map(([, value]) => Math.abs(value))) || 1;
  voices.forEach(({ bar, label, fill, number }, i) => {
    const [name, value] = rows[i] ?? ["", 0];
    bar.className = value < 0 ? "bar minus" : "bar plus";
    label.textContent = name;
    fill.style.width = `${(50 * Math.abs(value)) / most}%`;
    number.textContent = signed(value);
    bar.hidden = !rows[i];
  });
}
