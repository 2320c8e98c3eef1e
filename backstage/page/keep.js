"use strict";
// What is kept: ten columns of cells, one for each digit. A removed example leaves its cell empty.
// Lesson 3 trains with it: --own my_digits.png, or --own my_voice.wav

const ROWS = 200; // at most
const DIGITS = [...Array(10).keys()];
const YOU = classes[data.classes.indexOf("you")]; // the label of your voice, if it is known
const NONE_KEPT = `Nothing is kept yet: ${data.words.give}, say what it was, keep it.`;
const NOT_YOU = "No voice is called \"you\" yet: save my_voice.wav, and train with --own.";
let cells = []; // { row, digit, label, image, samples, pixels, text, button }; text: to compare
let unsaved = false;

const shelve = (text) => write("shelf", text);
const ofDigit = (digit) => cells.filter((cell) => cell.digit === digit);
function isKept(image, digit) {
  const text = String(image);
  return ofDigit(digit).some((cell) => cell.text === text);
}
// What it teaches.
const labelOf = (digit) => (THING === "digit" ? digit : YOU);

// Puts an example into the column of its digit: into the row that is asked for, or else the first
// that is free. Returns whether there was room.
function put({ image, samples }, digit, wanted) {
  const isFree = (row) => ofDigit(digit).every((cell) => cell.row !== row);
  const row = [wanted, ...Array(ROWS).keys()].find((row) => row !== undefined && isFree(row));
  if (row === undefined) return false;
  const button = document.createElement("button");
  button.ariaLabel = `Kept ${digit}, number ${row + 1}`;
  button.style.gridArea = `${row + 2} / ${digit + 1}`;
  paint(makeCanvas(button), greys(image));
  const known = { label: labelOf(digit), pixels: normalize(image), text: String(image) };
  cells.push({ row, digit, image, samples, button, ...known });
  return true;
}
function showKept(isUnsaved, text) {
  unsaved = isUnsaved;
  cells.sort((a, b) => a.row - b.row || a.digit - b.digit);
  const buttons = cells.map(({ button }) => button);
  $("cells").replaceChildren();
  if (cells.length) DIGITS.forEach((digit) => make("span", "", $("cells"), digit));
  $("cells").append(...buttons);
  connect(buttons, (i) => choose(cells[i]));
  const numbers = DIGITS.map((digit) => ofDigit(digit).length);
  const least = Math.min(...numbers);
  shelve(`${text} ${cells.length} kept, ${least} to ${Math.max(...numbers)} of each.`);
}

// Keeps what was given; returns whether it did.
function keep(digit) {
  const { sample } = given;
  if (sample && !cells.includes(sample)) return tell("It is there to test with. Keep your own.");
  const example = forKeeping();
  if (isKept(example.image, digit)) return tell("This one is kept already.");
  if (!put(example, digit)) return tell(`There is room for ${ROWS} of each: it is full.`);
  showKept(true, "");
  tell(`Kept as a ${digit}.`);
  return true;
}
$("asked").hidden = THING === "digit"; // then the label is the digit
$("said").append(...DIGITS.map((digit) => new Option(digit)));
$("said").onchange = () => (given.digit = $("said").value ? Number($("said").value) : undefined);
$("keep").onclick = () => {
  if (THING === "digit") return isLabelled() && keep(given.label);
  if (!image) return tell(data.words.nothing);
  if (given.digit === undefined) return tell("First choose which digit was said.");
  keep(given.digit);
};
$("remove").onclick = () => {
  const cell = given.sample;
  if (!cells.includes(cell)) return shelve("Choose one below first, then remove it.");
  cells = cells.filter((other) => other !== cell);
  change(NOTHING);
  showKept(cells.length > 0, "Removed.");
};

// --- Files
function download(blob) {
  const href = URL.createObjectURL(blob);
  Object.assign(document.createElement("a"), { href, download: data.words.file }).click();
  unsaved = false;
  shelve(`Saved as ${data.words.file}, where your browser puts its downloads.`);
}
// Adds the examples of a file, { image }, or null where a cell is empty: ten to a row.
async function addOpened(examples) {
  const before = cells.length;
  let [place, full] = [0, 0];
  for await (const example of examples) {
    const [row, digit] = [Math.floor(place / 10), place % 10];
    if (example && !isKept(example.image, digit) && !put(example, digit, row)) full++;
    place++;
  }
  const left = full ? ` ${full} found no room.` : "";
  const added = cells.length - before;
  showKept(unsaved || (before > 0 && added > 0), `${added} opened.${left}`);
}

addEventListener("beforeunload", (event) => {
  if (unsaved) event.preventDefault();
});
