"use strict";
// What was said: recorded, opened, played, and shown.

const [LASTS, MOST_SECONDS, SHORTEST, LONG] = [2, 5, 0.1, 0.7]; // seconds
const [PATIENCE, RELEASE] = [8, 20]; // seconds until it gives up, and lets the microphone go
const MOST_BYTES = 4e6; // of a recording
const MOST_VOICE_BYTES = 33e6; // of a file of kept words
const DECODED = 48000; // samples per second; straight to 8,000, some browsers filter badly
const LONGER = "Longer than most digits: one word, in a quiet room?";
const NO_MICROPHONE = "This browser gives no microphone to this page. Open a recording instead.";
const NOT_FOUND = "No microphone is found. Plug one in, or open a recording.";
const REASONS = {
  NotFoundError: NOT_FOUND,
  OverconstrainedError: NOT_FOUND, // so WebKit says it
  NotAllowedError: "The microphone was not allowed. Allow it in the browser, or open a recording.",
};

// A stored or kept example, or the samples of a recording, 8,000 per second, the spoken part of
// them, and its image. And the label that was chosen, and which digit was said.
const NOTHING = { sample: null, samples: null };
let given = NOTHING;
let [recorder, microphone, player] = [null, null, null];
let guided = null; // the digit to say, while somebody is led from 0 to 9
const say = (text) => write("listening", text);
const wait = (seconds) => new Promise((resume) => setTimeout(resume, 1000 * seconds));
const giveUp = () => Promise.reject(new Error("no answer"));
const inTime = (promise) => Promise.race([promise, wait(PATIENCE).then(giveUp)]);
const toRows = (values) => range(28, (y) => values.slice(28 * y, 28 * y + 28));
const isBusy = () => recorder !== null;
const prepare = () => ({ image: given.sample?.image ?? given.image ?? null, hint: given.hint });

function change(next) {
  given = next;
  $("said").value = given.digit ?? "";
  update();
}
function choose(sample) {
  const { samples, label, digit } = sample;
  change({ sample, samples, label, digit });
  say("");
  play();
}
function hear(samples) {
  const spoken = trimSilence(samples);
  const used = spoken.length / RATE;
  const image = used < SHORTEST ? null : toRows(toImage(spoken));
  const hint = used > LONG ? LONGER : "";
  const asked = guided === null ? {} : { digit: guided, label: labelOf(guided) };
  change({ ...NOTHING, samples, spoken, image, hint, ...asked });
  const text = `Of ${(samples.length / RATE).toFixed(2)} s it uses ${used.toFixed(2)} s. ${hint}`;
  if (!used) return say("Nothing but silence: is the microphone on?");
  say(image ? text : `${text}That is too short for a digit.`);
  const answer = data.classes[order[0]];
  if (image && guided !== null) steps[guided].textContent = `${guided} \u2192 ${answer}`;
}

// --- The microphone
$("record").onclick = async () => {
  if (recorder) return recorder.stop?.();
  if (!navigator.mediaDevices || !window.MediaRecorder) return say(NO_MICROPHONE);
  recorder = {}; // a second press must not ask twice
  try {
    clearTimeout(microphone?.release);
    if (!microphone?.active) {
      say("Your browser asks whether this page may listen.");
      const raw = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
      microphone = await navigator.mediaDevices.getUserMedia({ audio: raw });
    }
    const sound = await record(microphone);
    const letGo = () => microphone.getTracks().forEach((track) => track.stop());
    microphone.release = setTimeout(letGo, 1000 * RELEASE); // so that it need not ask each time
    recorder = null;
    await openFile(sound, say);
  } catch (error) {
    say(REASONS[error.name] ?? `The microphone does not work: ${error.message}.`);
  }
  recorder = null;
  write("record", "Record");
};
async function record(microphone) {
  recorder = new MediaRecorder(microphone);
  const parts = [];
  recorder.ondataavailable = ({ data }) => parts.push(data);
  const stopped = new Promise((resume) => (recorder.onstop = resume));
  recorder.onstart = () => {
    write("record", "Stop");
    say(`Listening: say ${guided ?? "one digit"} now.`);
    setTimeout((own) => own.state === "recording" && own.stop(), 1000 * LASTS, recorder);
  };
  recorder.start();
  await stopped;
  return new File(parts, "What was recorded");
}

// --- Files
// Opens a recording of a word, or a file of kept words.
async function openFile(file, tell) {
  const refuse = (why) => tell(`${file.name} is not opened: ${why}.`);
  if (file.size > MOST_VOICE_BYTES) return refuse("it is too large");
  const content = await file.arrayBuffer().catch(() => new ArrayBuffer(0));
  const voice = isVoice(content);
  if (!voice && file.size > MOST_BYTES) return refuse("it is too large for one digit");
  const rate = voice ? RATE : DECODED;
  const decoded = new OfflineAudioContext(1, 1, rate).decodeAudioData(content);
  const sound = await inTime(decoded).catch(() => null);
  if (!sound) return refuse("it holds no sound that this browser can read");
  const { duration, length, numberOfChannels } = sound;
  if (voice && length % (10 * RATE) === 0) return addOpened(readWords(sound.getChannelData(0)));
  const lasts = `it lasts ${duration.toFixed(1)} s, and one digit takes a second or two`;
  if (duration > MOST_SECONDS) return refuse(lasts);
  const channels = range(numberOfChannels, (i) => sound.getChannelData(i));
  hear(resample(channels[0].map((_, i) => mean(channels.map((channel) => channel[i]))), rate));
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

// --- Played, and shown
async function play() {
  if (!given.samples) return say(given.sample ? "Only its image is stored." : data.words.nothing);
  player?.pause();
  player = new Audio(URL.createObjectURL(makeWav(given.samples)));
  await inTime(player.play()).catch(({ name }) => {
    if (name !== "AbortError") say("No sound comes out: is there a loudspeaker?");
  });
}
$("play").onclick = play;

const wave = Object.assign($("wave"), { width: 560, height: 120 });
function showGiven() {
  const pencil = wave.getContext("2d");
  const { samples = [], spoken = samples } = given.samples ? given : {};
  const begin = (spoken.byteOffset - samples.byteOffset) / 4; // a sample has 4 bytes
  const most = Math.max(1e-9, ...samples.map(Math.abs));
  pencil.fillStyle = `rgb(${PAPER})`;
  pencil.fillRect(0, 0, wave.width, wave.height);
  for (let x = 0; x < wave.width && samples.length; x++) {
    const [from, to] = [x, x + 1].map((place) => Math.floor((place * samples.length) / wave.width));
    const heights = samples.slice(from, to).map((sample) => (-56 * sample) / most);
    const [top, bottom] = [Math.min(0, ...heights), Math.max(0, ...heights)];
    pencil.fillStyle = `rgb(${from >= begin && from < begin + spoken.length ? INK : GREY})`;
    pencil.fillRect(x, 60 + top, 1, Math.max(1, bottom - top));
  }
}

// --- Ten digits, one by one
const steps = range(10, () => make("span", "", $("tour")));
$("guide").onclick = () => lead(guided === null ? 0 : null);
$("accept").onclick = () => {
  if (!image) return say(data.words.nothing);
  if (keep(guided)) lead(guided < 9 ? guided + 1 : null);
};
function lead(digit) {
  if (guided === null) steps.forEach((step, i) => (step.textContent = i));
  guided = digit;
  $("tour").hidden = $("accept").hidden = digit === null;
  steps.forEach((step, i) => step.classList.toggle("best", i === digit));
  write("guide", digit === null ? "Say all ten, one by one" : "End the round");
  write("accept", `Keep it as ${digit}`);
  say(digit === null ? "Save what you kept as my_voice.wav, below." : `Record, and say: ${digit}`);
  if (digit !== null) change(NOTHING);
}
