"use strict";
// my_voice.wav, the file of what is kept: 8,000 samples per second, 16 bit, one channel. Every
// second holds a word between zeros, as its image was made; second i is the digit i % 10.

const FULL = 32768; // of 16 bit
const HEAD = 44; // bytes
const MOST_VOICE_BYTES = HEAD + 2 * RATE * 10 * ROWS + 1000; // other programs add their names

// A word as the file will hold it, so that opening the file gives the same image again.
function forKeeping() {
  const sixteen = (sample) => Math.min(Math.max(Math.round(FULL * sample), -FULL), FULL - 1) / FULL;
  return makeExample(given.sample?.samples ?? centreSound(given.spoken).map(sixteen));
}
const makeExample = (samples) => ({ samples, image: rows(toImage(samples)) });

function makeWav(samples) {
  const view = new DataView(new ArrayBuffer(HEAD + 2 * samples.length));
  const texts = { 0: "RIFF", 8: "WAVEfmt ", 36: "data" };
  for (const [place, text] of Object.entries(texts)) {
    [...text].forEach((letter, i) => view.setUint8(Number(place) + i, letter.charCodeAt(0)));
  }
  // How many bytes follow; then plain numbers, one channel, and bytes per second and sample.
  const longs = { 4: view.byteLength - 8, 16: 16, 24: RATE, 28: 2 * RATE, 40: 2 * samples.length };
  for (const [place, value] of Object.entries(longs)) view.setUint32(place, value, true);
  for (const [place, value] of [[20, 1], [22, 1], [32, 2], [34, 16]]) view.setUint16(place, value, true);
  samples.forEach((sample, i) => {
    view.setInt16(HEAD + 2 * i, Math.max(-FULL, Math.min(FULL - 1, Math.round(FULL * sample))), true);
  });
  return new Blob([view], { type: "audio/wav" });
}
$("save").onclick = () => {
  if (!cells.length) return shelve(NONE_KEPT);
  const seconds = 10 * (1 + Math.max(...cells.map(({ row }) => row)));
  const samples = new Float32Array(seconds * SECOND);
  for (const cell of cells) samples.set(cell.samples, SECOND * (10 * cell.row + cell.digit));
  download(makeWav(samples));
};

// The samples of such a file, or null: then it may be a recording of one word.
function readVoice(content) {
  const view = new DataView(content);
  const text = (place) => String.fromCharCode(...new Uint8Array(content.slice(place, place + 4)));
  if (text(0) !== "RIFF" || text(8) !== "WAVE") return null;
  let kind = "";
  // Blocks of a name, a length and a content.
  for (let place = 12; place + 8 <= content.byteLength; ) {
    const [name, length, begin] = [text(place), view.getUint32(place + 4, true), place + 8];
    const block = content.slice(begin, begin + length);
    if (name === "fmt ") kind = String(new Uint16Array(block.slice(0, 16)));
    if (name === "data") {
      const fits = kind === "1,1,8000,0,16000,0,2,16" && block.byteLength === length;
      const tens = length / (20 * RATE);
      if (!fits || !Number.isInteger(tens) || tens < 1 || tens > ROWS) return null;
      return Float32Array.from(new Int16Array(block), (sample) => sample / FULL);
    }
    place = begin + length + (length % 2);
  }
  return null;
}
async function* readWords(samples) {
  $("progress").hidden = false;
  for (let begin = 0; begin < samples.length; begin += SECOND) {
    const second = samples.slice(begin, begin + SECOND);
    const isWord = second.some((sample) => sample !== 0);
    if (isWord) await wait(0); // the browser shows the progress
    $("progress").value = begin / samples.length;
    yield isWord ? makeExample(second) : null;
  }
  $("progress").hidden = true;
}
