"use strict";
// From a recording to 28 x 28 pixels: backstage/sound.py once more, step by step.

const RATE = 8000; // samples per second, and in an image
const WINDOW = 512; // samples in one column; columns begin HOP apart
const HOP = Math.floor((RATE - WINDOW) / 27);
const [LOWEST, RANGE] = [50, 45]; // Hz; decibels from black to the loudest moment
const [PIECE, FRAME] = [20, 160]; // samples: the steps in which silence is looked for
const [TAIL, LONGEST, PAUSE] = [3, 40, 10]; // frames
const [SPEECH, LOUD] = [30, 3]; // decibels below the loudest moment
const SILENCE = 0.0005; // of full scale
const REACH = 240; // new samples: how far a filter reaches to each side

const range = (length, make) => Array.from({ length }, (_, i) => make(i));
const decibels = (power) => 10 * Math.log10(power);
const mean = (numbers) => sum(numbers) / numbers.length;
const power = (samples) => { // its variance, whatever constant the sound card adds
  const middle = mean(samples);
  return sum(samples.map((sample) => (sample - middle) ** 2)) / (samples.length - 1);
};

// The same sound with 8,000 samples per second, without what is above 4,000 Hz: that would appear
// as tones that nobody made. As in PyTorch, the end joins the beginning.
function resample(samples, rate) {
  if (rate === RATE) return samples;
  const length = Math.round((samples.length * RATE) / rate);
  const step = samples.length / length;
  const margin = Math.ceil(REACH * step);
  const around = Float32Array.from({ length: samples.length + 2 * margin }, (_, i) =>
    samples.at((i - margin) % samples.length));
  const filters = {}; // by the place of a new sample between two old ones: few places recur
  return Float32Array.from({ length }, (_, i) => {
    const begin = Math.ceil((i - REACH) * step);
    const filter = (filters[(begin - i * step).toFixed(3)] ??= makeFilter(begin / step - i, step));
    return dot(filter, around.subarray(margin + begin));
  });
}
// sin(x) / x lets through what is below 4,000 Hz; it fades out at both ends.
function makeFilter(begin, step) {
  const places = range(Math.floor(2 * REACH * step), (k) => Math.PI * (begin + k / step));
  const fade = (x) => Math.cos(x / REACH / 2) ** 2;
  return Float64Array.from(places, (x) => ((x ? Math.sin(x) / x : 1) * fade(x)) / step);
}

// The part in which somebody speaks: of several, the one with the most energy.
function trimSilence(samples) {
  const part = (size) => (i) => samples.subarray(i * size, (i + 1) * size);
  const cut = (size) => range(Math.floor(samples.length / size), part(size));
  const pieces = [...Array((TAIL - 1) * (FRAME / PIECE)).fill(0), ...cut(PIECE).map(power)];
  const tail = (i) => pieces.slice((i * FRAME) / PIECE, ((i + TAIL) * FRAME) / PIECE);
  const powers = cut(FRAME).map((_, i) => mean(tail(i)));
  const most = Math.max(...powers);
  if (!(most >= SILENCE ** 2)) return samples.subarray(0, 0);
  const loudness = powers.map((power) => decibels(power / most + 1e-12));
  const others = loudness.length - LONGEST; // so many frames hold nothing but the room
  const room = others > 0 ? loudness.toSorted((a, b) => a - b)[Math.floor(others / 2)] : -Infinity;
  const threshold = Math.min(Math.max((room * 2) / 3, -SPEECH), -LOUD);
  const frames = [...loudness.keys()].filter((i) => loudness[i] >= threshold);
  const parts = [];
  frames.forEach((frame, i) => {
    if (!i || frame - frames[i - 1] > PAUSE) parts.push([]);
    parts.at(-1).push(frame);
  });
  const energies = parts.map((part) => sum(part.map((frame) => powers[frame])));
  const spoken = parts[energies.indexOf(Math.max(...energies))];
  return samples.subarray(spoken[0] * FRAME, (spoken.at(-1) + 1) * FRAME);
}

// The middle second, without its mean.
function middleSecond(samples) {
  const [middle, before] = [mean(samples), Math.floor((RATE - samples.length) / 2)];
  return Float32Array.from({ length: RATE }, (_, i) => (samples[i - before] ?? middle) - middle);
}
// The spectrogram: 784 values from 0 (silence) to 255 (the loudest moment), low frequencies in
// the last row, time from left to right.
function toImage(samples) {
  const second = middleSecond(samples);
  const columns = range(28, (i) => toBands(second.subarray(i * HOP, i * HOP + WINDOW)));
  const most = Math.max(1e-20, ...columns.flat());
  const grey = (power) => Math.round(255 * Math.max(0, decibels(power / most) / RANGE + 1));
  return range(784, (i) => grey(columns[i % 28][27 - Math.floor(i / 28)]));
}
// How strong each frequency is, from comparing the sound with a cosine and a sine of it; then the
// power in 28 bands, equally wide to the ear: triangles, each between its neighbours' peaks.
const COSINES = Float64Array.from(range(WINDOW, (i) => Math.cos((2 * Math.PI * i) / WINDOW)));
function toBands(samples) {
  const faded = Float64Array.from(samples, (sample, i) => sample * (0.5 - 0.5 * COSINES[i]));
  const powers = range(WINDOW / 2 + 1, (frequency) => {
    let [cosine, sine] = [0, 0];
    for (let i = 0; i < WINDOW; i++) {
      cosine += faded[i] * COSINES[(frequency * i) % WINDOW];
      sine += faded[i] * COSINES[(frequency * i + WINDOW / 4) % WINDOW];
    }
    return cosine ** 2 + sine ** 2;
  });
  return BANDS.map((shares) => dot(shares, powers));
}
const mel = (hertz) => 2595 * Math.log10(1 + hertz / 700);
const PLACES = range(30, (i) => mel(LOWEST) + (i / 29) * (mel(RATE / 2) - mel(LOWEST)));
const CORNERS = PLACES.map((place) => 700 * (10 ** (place / 2595) - 1)); // Hz
const BANDS = range(28, (band) => range(WINDOW / 2 + 1, (i) => {
  const [hertz, [start, peak, end]] = [(i * RATE) / WINDOW, CORNERS.slice(band, band + 3)];
  return Math.max(0, Math.min((hertz - start) / (peak - start), (end - hertz) / (end - peak)));
}));

hearing.image = (samples, rate) => toImage(resample(Float32Array.from(samples), rate));
hearing.heard = (samples, rate) => toImage(trimSilence(resample(Float32Array.from(samples), rate)));
