"use strict";
// What was said: recorded, opened, played, and shown.

const WORDS = {
  reads: "hears",
  ink: "Sound",
  blank: "Silence",
  start: "silence: the biases, and what the lit neurons make of it",
  tests: "test recordings",
  give: "say a digit",
  given: "recording",
  file: "my_voice.wav",
  nothing: "First record a digit, or open a recording.",
  waits: "It answers as soon as it hears a word.",
  right: "",
  wrong: "Can you hear why?",
};
const [LASTS, MOST_SECONDS, SHORTEST, LONG] = [2, 5, 0.1, 0.7]; // seconds
const MOST_BYTES = 4e6; // of one recording
const KEPT_OPEN = 20; // seconds: so long a browser need not ask for the microphone again
const TIME_OUT = 8; // seconds
const DECODED = 48000; // samples per second; straight to 8,000, some browsers filter badly
const LONGER = "Longer than most digits: is it one word, in a quiet room?";
const WHY_NO_MICROPHONE = {
  NotFoundError: "No microphone is found. Plug one in, or open a recording.",
  NotAllowedError: "The microphone was not allowed. Allow it in the browser, or open a recording.",
};
const NO_MICROPHONE = "This browser gives no microphone to this page. Open a recording instead.";

// A stored or kept example { image, samples }, or what was recorded: its samples, 8,000 per
// second, the spoken part of them, and their image. And its label, and which digit was said.
const NOTHING = { sample: null, samples: null };
let given = NOTHING;
let microphone = null;
let recorder = null; // while it records
let player = null;
let guided = null; // the digit to say, while somebody is led from 0 to 9
const rows = (values) => range(28, (y) => values.slice(28 * y, 28 * y + 28));
const say = (text) => write("listening", text);
const wait = (seconds) => new Promise((resume) => setTimeout(resume, 1000 * seconds));
const inTime = (promise) =>
  Promise.race([promise, wait(TIME_OUT).then(() => Promise.reject(new Error("no answer")))]);
const isBusy = () => recorder !== null;
const prepare = () => ({ image: given.sample?.image ?? given.image ?? null, hint: given.hint });

function change(next) {
  given = next;
  $("said").value = given.digit ?? "";
  update();
}
function choose(sample) {
  change({ ...NOTHING, sample, samples: sample.samples, label: sample.label, digit: sample.digit });
  say("");
  play();
}
function hear(samples) {
  const spoken = trimSilence(samples);
  const used = spoken.length / RATE;
  const hint = used > LONG ? LONGER : "";
  const said = { digit: guided ?? undefined, label: guided === null ? undefined : labelOf(guided) };
  const image = used < SHORTEST ? null : rows(toImage(spoken));
  change({ ...NOTHING, samples, spoken, image, hint, ...said });
  const lasts = `Of ${(samples.length / RATE).toFixed(2)} s it uses ${used.toFixed(2)} s.`;
  if (!used) say("Nothing but silence: is the microphone on?");
  else say(image ? `${lasts} ${hint}` : `${lasts} That is too short for a digit.`);
  if (guided !== null) showTour();
}

// --- The microphone
$("record").onclick = async () => {
  if (recorder) return recorder.stop?.();
  if (!navigator.mediaDevices || !window.MediaRecorder) return say(NO_MICROPHONE);
  recorder = {}; // a second press must not ask twice
  try {
    clearTimeout(microphone?.release);
    if (!microphone?.stream.active) microphone = { stream: await askForMicrophone() };
    await record(microphone.stream);
  } catch (error) {
    say(WHY_NO_MICROPHONE[error.name] ?? `The microphone does not work: ${error.message}`);
  }
  recorder = null;
  write("record", "Record");
  if (microphone) microphone.release = setTimeout(letGo, 1000 * KEPT_OPEN);
};
const askForMicrophone = () => {
  say("Your browser asks whether it may listen.");
  const raw = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  return navigator.mediaDevices.getUserMedia({ audio: raw });
};
function letGo() {
  microphone.stream.getTracks().forEach((track) => track.stop());
  microphone = null;
}
async function record(stream) {
  recorder = new MediaRecorder(stream);
  const parts = [];
  recorder.ondataavailable = ({ data }) => parts.push(data);
  const stopped = new Promise((resume) => (recorder.onstop = resume));
  recorder.onstart = () => {
    write("record", "Stop");
    say(`Listening: say ${guided ?? "one digit"} now.`);
  };
  recorder.start();
  wait(LASTS).then(() => recorder?.state === "recording" && recorder.stop());
  await stopped;
  recorder = null;
  await openFile(new File(parts, "What was recorded"), say);
}

// --- Files, and playing
// Opens a recording of a word, or a file of kept words.
async function openFile(file, tell) {
  const refuse = (why) => tell(`${file.name} is not opened: ${why}.`);
  if (file.size > MOST_VOICE_BYTES) return refuse("it is too large");
  const content = await file.arrayBuffer().catch(() => new ArrayBuffer(0));
  const voice = readVoice(content);
  if (voice) return addOpened(readWords(voice));
  if (file.size > MOST_BYTES) return refuse("it is too large for one digit");
  const context = new OfflineAudioContext(1, 1, DECODED);
  const sound = await inTime(context.decodeAudioData(content)).catch(() => null);
  if (!sound) return refuse("it holds no sound that this browser can read");
  if (sound.duration > MOST_SECONDS) {
    return refuse(`it lasts ${sound.duration.toFixed(1)} s; one digit takes a second or two`);
  }
  const channels = range(sound.numberOfChannels, (i) => sound.getChannelData(i));
  const mean = channels[0].map((_, i) => sum(channels.map((channel) => channel[i])) / channels.length);
  hear(resample(mean, DECODED));
}
for (const [id, tell] of [["open-sound", say], ["open", (text) => shelve(text)]]) {
  $(id).onchange = async () => {
    if ($(id).files[0]) await openFile($(id).files[0], tell);
    $(id).value = ""; // so that the same file can be opened again
  };
}
// Where a page may not listen, a phone's own recorder can.
if (!navigator.mediaDevices) $("open-sound").setAttribute("capture", "");
document.ondragover = (event) => event.preventDefault();
document.ondrop = (event) => {
  event.preventDefault();
  if (event.dataTransfer.files[0]) openFile(event.dataTransfer.files[0], say);
};

async function play() {
  if (!given.samples) return say(given.sample ? "This one is stored as an image only." : WORDS.nothing);
  player?.pause();
  player = new Audio(URL.createObjectURL(makeWav(given.samples)));
  await inTime(player.play()).catch((error) => {
    if (error.name !== "AbortError") say("No sound comes out: is there a loudspeaker?");
  });
}
$("play").onclick = play;

// --- The wave: what is used of it is dark
const wave = Object.assign($("wave"), { width: 560, height: 120 });
function showGiven() {
  const { samples, spoken } = given;
  const pencil = wave.getContext("2d");
  pencil.fillStyle = `rgb(${PAPER})`;
  pencil.fillRect(0, 0, wave.width, wave.height);
  const most = Math.max(...(samples ?? [0]).map(Math.abs)) || 1;
  const begin = spoken ? (spoken.byteOffset - samples.byteOffset) / 4 : 0; // 4 bytes a sample
  const end = begin + (spoken ?? samples ?? []).length;
  for (let x = 0; x < wave.width; x++) {
    const [from, to] = [x, x + 1].map((place) => Math.floor((place * (samples?.length ?? 0)) / wave.width));
    const heights = [...(samples ?? []).slice(from, Math.max(to, from + 1)), 0];
    const [top, bottom] = [Math.max(...heights), Math.min(...heights)].map((y) => 60 - (56 * y) / most);
    pencil.fillStyle = `rgb(${from >= begin && from < end ? INK : GREY})`;
    pencil.fillRect(x, top, 1, Math.max(1, bottom - top));
  }
}

// --- Ten digits, one by one
$("guide").onclick = () => lead(guided === null ? 0 : null);
$("accept").onclick = () => {
  if (!image) return say(WORDS.nothing);
  if (keep(guided)) lead(guided < 9 ? guided + 1 : null);
};
const tour = range(10, (digit) => make("span", "", $("tour"), digit));
function lead(digit) {
  if (guided === null) tour.forEach((span, digit) => (span.textContent = digit));
  guided = digit;
  write("guide", digit === null ? "Say all ten, one by one" : "End the round");
  $("tour").hidden = $("accept").hidden = digit === null;
  tour.forEach((span, i) => span.classList.toggle("best", i === digit));
  write("accept", `Keep it as ${digit}`);
  say(digit === null ? "Save what you kept: my_voice.wav, below." : `Record, and say: ${digit}`);
}
function showTour() {
  const answer = order.length ? data.classes[order[0]] : "?";
  tour[guided].textContent = `${guided} \u2192 ${answer}`;
}
