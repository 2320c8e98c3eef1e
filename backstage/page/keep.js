"use strict";
// What is kept: a sheet of cells, light ink on black. The column is the label; a removed one
// leaves its cell empty. Lesson 3 reads it from my_digits.png: --own my_digits.png

const CELL = 28; // pixels
const COLUMNS = 10;
const ROWS = 200; // at most
const EMPTY = 64; // of 255: a cell without a pixel above this is empty
const MOST_BYTES = 10e6; // of a file; a full sheet has less than 2 MB
let cells = []; // { row, label, image, pixels, button }
let unsaved = false;

const shelve = (text) => write("shelf", text);
const isKept = (image, label) =>
  cells.some((cell) => cell.label === label && String(cell.image) === String(image));

// --- Keep and remove ---------------------------------------------------------------------------

function freeRow(label) {
  const taken = cells.filter((cell) => cell.label === label).map((cell) => cell.row);
  return [...Array(ROWS + 1).keys()].find((row) => !taken.includes(row));
}
// Puts an image into its column; false: the column is full.
function put(image, label, row = freeRow(label)) {
  if (row >= ROWS) return false;
  const button = document.createElement("button");
  button.ariaLabel = `Kept ${data.classes[label]}, number ${row + 1}`;
  button.style.gridArea = `${row + 2} / ${label + 1}`;
  paint(makeCanvas(button), greys(image));
  cells.push({ row, label, image, pixels: normalize(image), button });
  cells.sort((a, b) => a.row - b.row || a.label - b.label);
  return true;
}
function showKept(isUnsaved) {
  unsaved = isUnsaved;
  $("cells").replaceChildren();
  for (const name of cells.length ? data.classes : []) make("span", "", $("cells"), name);
  $("cells").append(...cells.map(({ button }) => button));
  connect(cells.map(({ button }) => button), (i) => {
    change({ sample: cells[i], strokes: [], label: cells[i].label });
  });
  showTeaching();
}
function countKept() {
  const numbers = classes.map((label) => cells.filter((cell) => cell.label === label).length);
  return `${cells.length} kept, ${Math.min(...numbers)} to ${Math.max(...numbers)} of each.`;
}

$("keep").onclick = () => {
  if (!isLabelled()) return;
  const { label, sample } = drawing;
  const name = data.classes[label];
  if (tests.includes(sample)) return tell("A test digit is there to test with. Keep your own.");
  if (isKept(image, label)) return tell("This one is kept already.");
  if (!put(image, label)) return tell(`The sheet has room for ${ROWS} of each: it is full.`);
  showKept(true);
  tell(`Kept as a ${name}.`);
  shelve(countKept());
};
$("remove").onclick = () => {
  const cell = drawing.sample;
  if (!cells.includes(cell)) return shelve("Choose one below first, then remove it.");
  cells = cells.filter((other) => other !== cell);
  showKept(cells.length > 0);
  change({ sample: null, strokes: [] });
  shelve(`Removed. ${countKept()}`);
};

// --- Save and open -----------------------------------------------------------------------------

$("save").onclick = () => {
  if (!cells.length) return shelve("Nothing is kept yet: draw, say what it was, keep it.");
  const canvas = document.createElement("canvas");
  canvas.width = CELL * COLUMNS;
  canvas.height = CELL * (1 + Math.max(...cells.map(({ row }) => row)));
  const context = canvas.getContext("2d");
  context.fillRect(0, 0, canvas.width, canvas.height); // black, and opaque
  for (const { row, label, button } of cells) {
    context.drawImage(button.firstChild, CELL * label, CELL * row);
  }
  canvas.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = "my_digits.png";
    link.click();
    unsaved = false;
    shelve("Saved as my_digits.png, where your browser puts its downloads.");
  });
};

$("open").onchange = async () => {
  const [file] = $("open").files;
  if (!file) return;
  const refuse = (why) => shelve(`${file.name} is not opened: ${why}.`);
  const wanted = `${CELL * COLUMNS} wide, with a row for each ${CELL}, at most ${ROWS} rows`;
  if (file.type !== "image/png") return refuse("it is no PNG picture");
  if (file.size > MOST_BYTES) return refuse("it is too large for a sheet of digits");
  const picture = await createImageBitmap(file).catch(() => null);
  if (!picture) return refuse("it is damaged");
  const { width, height } = picture;
  if (width !== CELL * COLUMNS || height % CELL || height > CELL * ROWS) {
    return refuse(`it has ${width} x ${height} pixels, and a sheet of digits is ${wanted}`);
  }
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0);
  const rgba = context.getImageData(0, 0, width, height).data;
  if (rgba.some((value, i) => value !== (i % 4 < 3 ? rgba[i - (i % 4)] : 255))) {
    return refuse("it has colours or is transparent, and a sheet of digits is plain grey");
  }
  openCells(rgba, height / CELL);
  $("open").value = ""; // so that the same file can be opened again
};
function openCells(rgba, rows) {
  const places = [...Array(CELL).keys()];
  const added = { to: cells.length, full: 0, number: 0 };
  for (let row = 0; row < rows; row++) {
    for (const label of classes) {
      const grey = (x, y) => rgba[4 * (CELL * COLUMNS * (CELL * row + y) + CELL * label + x)];
      const image = places.map((y) => places.map((x) => grey(x, y)));
      if (Math.max(...image.flat()) <= EMPTY || isKept(image, label)) continue;
      const isFree = !cells.some((cell) => cell.row === row && cell.label === label);
      if (put(image, label, isFree ? row : freeRow(label))) added.number++;
      else added.full++;
    }
  }
  showKept(unsaved || (added.to > 0 && added.number > 0));
  const left = added.full ? `, and ${added.full} left out: their columns are full` : "";
  shelve(`${added.number} opened${left}. ${countKept()}`);
}

addEventListener("beforeunload", (event) => {
  if (unsaved) event.preventDefault();
});
