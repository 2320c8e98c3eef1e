"use strict";
// From a drawing to 28 x 28 pixels, made as the digits were that the network learned from.

const SHEET = 280; // pixels; the pen is 20 wide
const SMALL = "Draw larger: scaled to 20 pixels, the strokes of a small digit are too thick.";
const FAINT = 90; // of 255: what is paler is paper
const sheet = document.getElementById("draw");
sheet.width = sheet.height = SHEET;
const pencil = sheet.getContext("2d", { willReadFrequently: true });

// What is on the sheet: perhaps a stored example { image, label }, and strokes, lists of [x, y];
// and the label that was chosen for it.
const NOTHING = { sample: null, strokes: [] };
let given = NOTHING;
const earlier = []; // earlier drawings
let pen = null; // the finger, pen or mouse that is drawing

function showGiven() {
  const { sample, strokes } = given;
  pencil.fillStyle = "white";
  pencil.fillRect(0, 0, SHEET, SHEET);
  if (sample) paint(sheet, greys(sample.image.flat().map((ink) => 255 - ink)));
  pencil.lineWidth = 20;
  pencil.lineCap = pencil.lineJoin = "round";
  for (const stroke of strokes) {
    pencil.beginPath();
    for (const [x, y] of stroke) pencil.lineTo(x, y);
    pencil.lineTo(stroke.at(-1)[0] + 0.01, stroke.at(-1)[1]); // so that a mere dot shows, too
    pencil.stroke();
  }
}

// The steps below treat rows. To treat columns, too, the image is turned over and back.
const turn = (rows) => rows[0].map((_, x) => rows.map((row) => row[x]));
const bothWays = (step, rows) => turn(step(turn(step(rows))));

// Each new pixel is the average of the stretch of pixels that it covers in its row.
const shrink = (scale) => (rows) => {
  const length = Math.max(1, Math.round(scale * rows[0].length));
  const step = rows[0].length / length;
  return rows.map((row) =>
    Array.from({ length }, (_, i) => {
      const [begin, end] = [i * step, Math.min((i + 1) * step, row.length)];
      let sum = 0;
      for (let x = Math.floor(begin); x < end; x++) {
        sum += row[x] * (Math.min(x + 1, end) - Math.max(x, begin));
      }
      return sum / step;
    }),
  );
};

// White is the usual ink (95 of 100 pixels have no more), not its strongest spot.
function whiten(rows) {
  const inks = Float64Array.from(rows.flat().filter((value) => value > 0)).sort();
  const place = 0.95 * (inks.length - 1);
  const [low, high] = [inks[Math.floor(place)], inks[Math.ceil(place)]];
  const usual = low + (place % 1) * (high - low);
  return rows.map((row) => row.map((value) => Math.min((255 * value) / usual, 255)));
}

// Makes 28 rows of it, with the middle of the ink's weight in the middle.
function centre(rows) {
  const weights = rows.map(sum);
  const middle = sum(weights.map((weight, y) => weight * y)) / sum(weights);
  const top = Math.min(Math.max(Math.round(14 - middle), 0), 28 - rows.length);
  return Array.from({ length: 28 }, (_, y) => rows[y - top] ?? rows[0].map(() => 0));
}

// Returns 28 rows of 0 (paper) to 255 (ink), or null while there is no ink, and what to do better.
function prepare() {
  const rgba = pencil.getImageData(0, 0, SHEET, SHEET).data;
  const ink = new Uint8Array(SHEET * SHEET).map((_, i) => 255 - rgba[4 * i]);
  const places = [...Array(SHEET).keys()];
  const rows = places.map((y) => ink.subarray(SHEET * y, SHEET * (y + 1)));
  // A stored example is in its place already.
  if (given.sample) return { image: bothWays(shrink(0.1), rows).map((row) => row.map(Math.round)) };
  const down = places.filter((y) => rows[y].some((value) => value >= FAINT));
  const across = places.filter((x) => rows.some((row) => row[x] >= FAINT));
  if (!down.length) return { image: null };
  // As MNIST was made: the ink's longer side becomes 20 pixels, and its weight is centred.
  const digit = rows
    .slice(down[0], down.at(-1) + 1)
    .map((row) => row.subarray(across[0], across.at(-1) + 1));
  const side = Math.max(digit.length, digit[0].length);
  const small = whiten(bothWays(shrink(20 / side), digit));
  const image = bothWays(centre, small).map((row) => row.map(Math.round));
  return { image, hint: side < SHEET / 3 ? SMALL : "" };
}

const isBusy = () => pen !== null;
const choose = (sample) => change({ ...NOTHING, sample, label: sample.label });
const forKeeping = () => ({ image });

// --- The pen
function change(next) {
  earlier.push(given);
  given = next;
  update();
}

function place({ clientX, clientY }) {
  const { left, top, width } = sheet.getBoundingClientRect();
  return [((clientX - left) * SHEET) / width, ((clientY - top) * SHEET) / width];
}

sheet.onpointerdown = (event) => {
  if (!event.isPrimary || event.button !== 0) return;
  pen = event.pointerId;
  sheet.setPointerCapture(pen);
  change({ ...given, strokes: [...given.strokes, [place(event)]] });
};
sheet.onpointermove = (event) => {
  if (event.pointerId !== pen) return;
  given.strokes.at(-1).push(...(event.getCoalescedEvents?.() ?? []).map(place), place(event));
  update();
};
sheet.onpointerup = sheet.onpointercancel = () => {
  pen = null;
  update();
};
$("clear").onclick = () => {
  chosen = {};
  change(NOTHING);
};
$("undo").onclick = () => {
  given = earlier.pop() ?? given;
  update();
};
