"use strict";
// my_voice.wav, the file of what is kept: 8,000 samples per second, 16 bit, one channel. Every
// second holds a word between zeros, as its image was made; second i is the digit i % 10.

const FULL = 32768; // of 16 bit
const HEAD = 44; // bytes
const KIND = [1, 1, RATE, 0, 2 * RATE, 0, 2, 16]; // plain numbers, one channel, rate, sizes

const toSixteen = (sample) => Math.min(Math.max(Math.round(FULL * sample), -FULL), FULL - 1);
const makeExample = (samples) => ({ samples, image: toRows(toImage(samples)) });
// As the file will hold it, so that opening the file gives the same image again.
const forKeeping = () => makeExample(given.sample?.samples ??
  middleSecond(given.spoken).map((sample) => toSixteen(sample) / FULL));

function makeWav(samples) {
  const text = (letters) => [...letters].map((letter) => letter.charCodeAt(0));
  const long = (number) => new Uint32Array([number]);
  const [bytes, kind] = [Int16Array.from(samples, toSixteen), new Uint16Array(KIND)];
  const head = [text("RIFF"), long(HEAD - 8 + bytes.byteLength), text("WAVEfmt "), long(16), kind,
    text("data"), long(bytes.byteLength)];
  const parts = head.map((part) => (Array.isArray(part) ? new Uint8Array(part) : part));
  return new Blob([...parts, bytes], { type: "audio/wav" });
}
$("save").onclick = () => {
  if (!cells.length) return shelve(NONE_KEPT);
  const tens = 1 + Math.max(...cells.map(({ row }) => row));
  const samples = new Float32Array(10 * tens * RATE);
  for (const { row, digit, samples: word } of cells) samples.set(word, RATE * (10 * row + digit));
  download(makeWav(samples));
};

// Whether it is such a file, and not the recording of one word.
const isVoice = (content) => content.byteLength >= HEAD + 20 * RATE &&
  String(new Uint16Array(content.slice(20, 36))) === String(KIND);
async function* readWords(samples) {
  $("progress").hidden = false;
  for (let begin = 0; begin < samples.length; begin += RATE) {
    const second = samples.slice(begin, begin + RATE).map((sample) => toSixteen(sample) / FULL);
    const isWord = second.some((sample) => sample !== 0);
    $("progress").value = begin / samples.length;
    if (isWord) await wait(0); // the browser shows the progress
    yield isWord ? makeExample(second) : null;
  }
  $("progress").hidden = true;
}
