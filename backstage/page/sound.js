"use strict";
// From a recording to 28 x 28 pixels: backstage/sound.py once more, step by step.

const RATE = 8000; // samples per second
const SECOND = 8000; // samples in an image
const [WINDOW, COLUMNS] = [512, 28];
const HOP = Math.floor((SECOND - WINDOW) / (COLUMNS - 1)); // samples from column to column
const [LOWEST, RANGE] = [50, 45]; // Hz; decibels from black to the loudest moment
const FRAME = 160; // samples, 20 ms: the step in which silence is looked for
const SILENCE = 0.0005; // of full scale
const [MARGIN, SPEECH, LOUD] = [6, 30, 18]; // decibels
const PAUSE = 0.25; // seconds; a gap within a digit is shorter
const REACH = 160; // samples of the result to each side that a filter reaches

const range = (length, make) => Array.from({ length }, (_, i) => make(i));
const decibels = (power) => 10 * Math.log10(power);

// The same sound with 8,000 samples per second. A filter leaves out what is above 4,000 Hz: else
// it would appear as tones that nobody made. As in PyTorch, the end joins the beginning.
function resample(samples, rate) {
  if (rate === RATE) return samples;
  const [ratio, length] = [rate / RATE, Math.round((samples.length * RATE) / rate)];
  const filters = {}; // by how far between two samples a new one lies: often the same again
  return Float32Array.from({ length }, (_, i) => {
    const begin = Math.ceil((i - REACH) * ratio);
    const filter = (filters[(begin - i * ratio).toFixed(6)] ??= makeFilter(begin / ratio - i, ratio));
    let sum = 0;
    for (let k = 0; k < filter.length; k++) {
      const place = (begin + k) % samples.length;
      sum += filter[k] * samples[place < 0 ? place + samples.length : place];
    }
    return sum;
  });
}
// A sine that fades on both sides.
function makeFilter(begin, ratio) {
  const places = range(Math.floor(2 * REACH * ratio), (k) => Math.PI * (begin + k / ratio));
  const fade = (place) => Math.cos(place / REACH / 2) ** 2;
  return Float64Array.from(places, (x) => ((x ? Math.sin(x) / x : 1) * fade(x)) / ratio);
}

// The part in which somebody speaks: of several, the one with the most energy.
function trimSilence(samples) {
  const power = range(Math.floor(samples.length / FRAME), (i) => {
    const frame = samples.subarray(i * FRAME, (i + 1) * FRAME);
    const mean = sum(frame) / FRAME;
    return sum(frame.map((sample) => (sample - mean) ** 2)) / (FRAME - 1);
  });
  const most = Math.max(...power);
  if (!(most >= SILENCE ** 2)) return samples.subarray(0, 0);
  const loudness = power.map((value) => decibels(value / most + 1e-12));
  // The quietest moments tell how loud the room is.
  const sorted = loudness.toSorted((a, b) => a - b);
  const [place, rest] = [Math.floor(0.05 * (sorted.length - 1)), (0.05 * (sorted.length - 1)) % 1];
  const noise = sorted[place] + rest * ((sorted[place + 1] ?? sorted[place]) - sorted[place]);
  const threshold = Math.min(Math.max(noise + MARGIN, -SPEECH), -LOUD);
  const parts = []; // lists of frames
  for (const frame of loudness.keys()) {
    if (loudness[frame] < threshold) continue;
    const gap = frame - (parts.at(-1)?.at(-1) ?? -Infinity);
    if (gap > (PAUSE * RATE) / FRAME) parts.push([]);
    parts.at(-1).push(frame);
  }
  const energy = parts.map((frames) => sum(frames.map((frame) => power[frame])));
  const spoken = parts[energy.indexOf(Math.max(...energy))];
  return samples.subarray(spoken[0] * FRAME, (spoken.at(-1) + 1) * FRAME);
}

// The middle second without its mean: some sound cards add a constant, which is no sound.
function centreSound(samples) {
  const mean = sum(samples) / samples.length;
  const before = Math.floor((SECOND - samples.length) / 2);
  return Float32Array.from({ length: SECOND }, (_, i) => (samples[i - before] ?? mean) - mean);
}

// The spectrogram: 784 values from 0 (silence) to 255 (the loudest moment), low frequencies in
// the last row, time from left to right.
function toImage(samples) {
  const second = centreSound(samples);
  const columns = range(COLUMNS, (i) => bands(powers(second.subarray(i * HOP, i * HOP + WINDOW))));
  const most = Math.max(1e-20, ...columns.flat());
  const grey = (power) => Math.round(255 * Math.max(0, decibels(power / most) / RANGE + 1));
  return range(784, (i) => grey(columns[i % 28][27 - Math.floor(i / 28)]));
}
// How strong each frequency is: the sound is compared with a cosine and a sine of it.
const COSINES = Float64Array.from({ length: WINDOW }, (_, i) => Math.cos((2 * Math.PI * i) / WINDOW));
function powers(samples) {
  const faded = Float64Array.from(samples, (sample, i) => sample * (0.5 - 0.5 * COSINES[i]));
  return range(WINDOW / 2 + 1, (frequency) => {
    let [cosine, sine] = [0, 0];
    for (let i = 0; i < WINDOW; i++) {
      cosine += faded[i] * COSINES[(frequency * i) % WINDOW];
      sine += faded[i] * COSINES[(frequency * i + WINDOW / 4) % WINDOW];
    }
    return cosine ** 2 + sine ** 2;
  });
}
// Frequencies in 28 bands, equally wide to the ear, each a triangle between its neighbours' peaks.
const mel = (hertz) => 2595 * Math.log10(1 + hertz / 700);
const CORNERS = range(30, (i) => {
  const here = mel(LOWEST) + (i / 29) * (mel(RATE / 2) - mel(LOWEST));
  return 700 * (10 ** (here / 2595) - 1); // Hz
});
const SHARES = range(28, (band) =>
  range(WINDOW / 2 + 1, (i) => {
    const [hertz, [start, peak, end]] = [(i * RATE) / WINDOW, CORNERS.slice(band, band + 3)];
    return Math.max(0, Math.min((hertz - start) / (peak - start), (end - hertz) / (end - peak)));
  }),
);
const bands = (powers) => SHARES.map((row) => dot(row, powers));
