"use strict";
// What is kept: a sheet of cells, light ink on black. The column is the label; a removed example
// leaves its cell empty. Lesson 3 reads the sheet: --own my_digits.png

const CELL = 28; // pixels
const WIDTH = 10 * CELL;
const ROWS = 200; // at most
const EMPTY = 64; // of 255: a cell without a pixel above this is empty
const MOST_BYTES = 10e6; // of a file; a full sheet has less than 2 MB
const NONE_KEPT = "Nothing is kept yet: draw, say what it was, keep it.";
let cells = []; // { row, label, image, pixels, text, button }; text: the image, to compare
let unsaved = false;

const shelve = (text) => write("shelf", text);
const ofLabel = (label) => cells.filter((cell) => cell.label === label);
function isKept(image, label) {
  const text = String(image);
  return ofLabel(label).some((cell) => cell.text === text);
}

// Puts an image into its column: into the row that is asked for, or else the first that is free.
// Returns whether there was room.
function put(image, label, wanted) {
  const isFree = (row) => ofLabel(label).every((cell) => cell.row !== row);
  const row = [wanted, ...Array(ROWS).keys()].find((row) => row !== undefined && isFree(row));
  if (row === undefined) return false;
  const button = document.createElement("button");
  button.ariaLabel = `Kept ${data.classes[label]}, number ${row + 1}`;
  button.style.gridArea = `${row + 2} / ${label + 1}`;
  paint(makeCanvas(button), greys(image));
  cells.push({ row, label, image, pixels: normalize(image), text: String(image), button });
  return true;
}
function showKept(isUnsaved, text) {
  unsaved = isUnsaved;
  cells.sort((a, b) => a.row - b.row || a.label - b.label);
  const buttons = cells.map(({ button }) => button);
  $("cells").replaceChildren();
  if (cells.length) data.classes.forEach((name) => make("span", "", $("cells"), name));
  $("cells").append(...buttons);
  connect(buttons, (i) => change({ sample: cells[i], strokes: [], label: cells[i].label }));
  const numbers = classes.map((label) => ofLabel(label).length);
  const least = Math.min(...numbers);
  shelve(`${text} ${cells.length} kept, ${least} to ${Math.max(...numbers)} of each.`);
}

$("keep").onclick = () => {
  if (!isLabelled()) return;
  const { label, sample } = drawing;
  if (tests.includes(sample)) return tell("A test digit is there to test with. Keep your own.");
  if (isKept(image, label)) return tell("This one is kept already.");
  if (!put(image, label)) return tell(`The sheet has room for ${ROWS} of each: it is full.`);
  showKept(true, "");
  tell(`Kept as a ${data.classes[label]}.`);
};
$("remove").onclick = () => {
  const cell = drawing.sample;
  if (!cells.includes(cell)) return shelve("Choose one below first, then remove it.");
  cells = cells.filter((other) => other !== cell);
  change({ sample: null, strokes: [] });
  showKept(cells.length > 0, "Removed.");
};

$("save").onclick = () => {
  if (!cells.length) return shelve(NONE_KEPT);
  const height = CELL * (1 + Math.max(...cells.map(({ row }) => row)));
  const canvas = Object.assign(document.createElement("canvas"), { width: WIDTH, height });
  const context = canvas.getContext("2d");
  context.fillRect(0, 0, WIDTH, height); // black, and opaque
  for (const { row, label, button } of cells) {
    context.drawImage(button.firstChild, CELL * label, CELL * row);
  }
  canvas.toBlob((blob) => {
    const href = URL.createObjectURL(blob);
    Object.assign(document.createElement("a"), { href, download: "my_digits.png" }).click();
    unsaved = false;
    shelve("Saved as my_digits.png, where your browser puts its downloads.");
  });
};

$("open").onchange = async () => {
  const [file] = $("open").files;
  if (!file) return;
  const refuse = (why) => shelve(`${file.name} is not opened: ${why}.`);
  if (file.type !== "image/png") return refuse("it is no PNG picture");
  if (file.size > MOST_BYTES) return refuse("it is too large for a sheet of digits");
  const picture = await createImageBitmap(file).catch(() => null);
  if (!picture) return refuse("it is damaged");
  const { width, height } = picture;
  if (width !== WIDTH || height % CELL || height > CELL * ROWS) {
    const wanted = `${WIDTH} wide, with ${CELL} for each row, and has at most ${ROWS} rows`;
    return refuse(`it has ${width} x ${height} pixels, and a sheet of digits is ${wanted}`);
  }
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0);
  const rgba = context.getImageData(0, 0, width, height).data;
  if (rgba.some((value, i) => value !== (i % 4 < 3 ? rgba[i - (i % 4)] : 255))) {
    return refuse("it has colours or is transparent, and a sheet of digits is plain grey");
  }
  readCells(rgba, height / CELL);
  $("open").value = ""; // so that the same file can be opened again
};
function readCells(rgba, rows) {
  const places = [...Array(CELL).keys()];
  const before = cells.length;
  let full = 0;
  for (let cell = 0; cell < 10 * rows; cell++) {
    const [row, label] = [Math.floor(cell / 10), cell % 10];
    const grey = (x, y) => rgba[4 * (WIDTH * (CELL * row + y) + CELL * label + x)];
    const image = places.map((y) => places.map((x) => grey(x, y)));
    const isNew = Math.max(...image.flat()) > EMPTY && !isKept(image, label);
    if (isNew && !put(image, label, row)) full++;
  }
  const left = full ? ` ${full} found no room.` : "";
  const added = cells.length - before;
  showKept(unsaved || (before > 0 && added > 0), `${added} opened.${left}`);
}

addEventListener("beforeunload", (event) => {
  if (unsaved) event.preventDefault();
});
