"use strict";
// my_digits.png, the sheet of what is kept: light ink on black, one cell for each example.

const CELL = 28; // pixels
const WIDTH = 10 * CELL;
const EMPTY = 64; // of 255: a cell without a pixel above this is empty
const MOST_BYTES = 10e6; // of a file; a full sheet has less than 2 MB

$("save").onclick = () => {
  if (!cells.length) return shelve(NONE_KEPT);
  const height = CELL * (1 + Math.max(...cells.map(({ row }) => row)));
  const canvas = Object.assign(document.createElement("canvas"), { width: WIDTH, height });
  const context = canvas.getContext("2d");
  context.fillRect(0, 0, WIDTH, height); // black, and opaque
  for (const { row, digit, button } of cells) {
    context.drawImage(button.firstChild, CELL * digit, CELL * row);
  }
  canvas.toBlob(download);
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
  await addOpened(readCells(rgba, height / CELL));
  $("open").value = ""; // so that the same file can be opened again
};
function* readCells(rgba, rows) {
  const places = [...Array(CELL).keys()];
  for (let cell = 0; cell < 10 * rows; cell++) {
    const [row, digit] = [Math.floor(cell / 10), cell % 10];
    const grey = (x, y) => rgba[4 * (WIDTH * (CELL * row + y) + CELL * digit + x)];
    const image = places.map((y) => places.map((x) => grey(x, y)));
    yield Math.max(...image.flat()) > EMPTY ? { image } : null;
  }
}
