// Connects the form, the stream, the player and the pictures.

import { Arrivals } from "/web/arrivals.js";
import { MelPicture } from "/web/mel.js";
import { Player } from "/web/player.js";
import { record, toWav } from "/web/recording.js";
import { SAMPLE_RATE, listVoices, speak } from "/web/speech.js";
import { SpokenText } from "/web/words.js";

const OWN = "own recording";
const $ = (id) => document.getElementById(id);
const seconds = (value) => `${value.toFixed(2)} s`;

const mel = new MelPicture($("mel"), SAMPLE_RATE);
const arrivals = new Arrivals($("arrivals"));
const spoken = new SpokenText($("spoken"));
let player = null;
let speech = null; // the running request: {abort, started, received, chunks}
let recorder = null;
let prompt = null; // the WAV Blob of the user's recording

function setStatus(words) {
  $("status").textContent = words;
}

function showError(error) {
  if (error?.unauthenticated) {
    $("more").open = true; // the field for the key is there
    $("key").focus();
  }
  $("problem").textContent = error ? `${error.message[0].toUpperCase()}${error.message.slice(1)}.`.replace("..", ".") : "";
}

async function fillVoices() {
  const chosen = $("voice").options.length > 1 ? $("voice").value : ""; // a list of one option holds no choice of the user
  showError(null);
  const voices = await listVoices($("key").value).catch((error) => {
    showError(error);
    return [];
  });
  const options = [...voices.map(({ id, name }) => new Option(name, id)), new Option("Your own recording …", OWN)];
  $("voice").replaceChildren(...options);
  if (options.some(({ value }) => value === chosen)) $("voice").value = chosen;
  showOwn();
}

function showOwn() {
  $("own").hidden = $("voice").value !== OWN;
}

function request() {
  const config = { speed: Number($("speed").value) };
  if ($("voice").value !== OWN) return [{ ...config, voice_name: $("voice").value }, null];
  if (!prompt) throw new Error("record your voice or choose a file first");
  return [{ ...config, prompt: { transcript: $("transcript").value } }, prompt];
}

async function start(event) {
  event.preventDefault();
  stop();
  showError(null);
  const mine = { abort: new AbortController(), started: performance.now(), received: 0, chunks: 0 };
  speech = mine;
  $("stop").disabled = false;
  for (const id of ["first", "received", "chunks", "played", "gaps"]) $(id).textContent = "–";
  mel.clear();
  arrivals.clear();
  spoken.clear($("text").value);
  setStatus("Waiting for the first audio …");
  try {
    player ??= await Player.open(SAMPLE_RATE, progress);
    await player.begin();
    const [config, recording] = request();
    mine.started = performance.now();
    for await (const event of speak(config, recording, $("text").value, $("key").value, mine.abort.signal)) {
      if (speech !== mine) return;
      if (event.audio) spoken.add(event.audio.words);
      if (event.samples) arrived(mine, event.samples);
    }
    player.end();
  } catch (error) {
    if (speech !== mine) return; // stopped, or replaced by the next request
    showError(error);
    finish("Stopped by an error.");
    player?.stop();
  }
}

function arrived(mine, samples) {
  const at = (performance.now() - mine.started) / 1000;
  if (!mine.chunks) {
    $("first").textContent = `${Math.round(at * 1000)} ms`;
    setStatus(`Speaking; the first audio came after ${Math.round(at * 1000)} milliseconds.`);
    requestAnimationFrame(paint);
  }
  mine.chunks += 1;
  mine.received += samples.length;
  player.push(samples);
  mel.push(samples);
  arrivals.add(at, samples.length / SAMPLE_RATE);
  $("received").textContent = seconds(mine.received / SAMPLE_RATE);
  $("chunks").textContent = String(mine.chunks);
}

function progress({ played, gaps, over }) {
  if (!speech) return;
  speech.played = played;
  $("played").textContent = seconds(played / SAMPLE_RATE);
  $("gaps").textContent = String(gaps);
  spoken.play(played);
  if (over) finish("Finished.");
}

function paint() {
  const at = (speech?.played ?? 0) / SAMPLE_RATE;
  mel.draw(at);
  $("level").value = speech ? player.level() : 0;
  if (speech) requestAnimationFrame(paint);
}

function finish(words) {
  speech = null;
  $("stop").disabled = true;
  setStatus(words);
}

function stop() {
  if (!speech) return;
  const { abort } = speech;
  finish("Stopped.");
  abort.abort();
  player?.stop();
}

async function usePrompt(blob) {
  showError(null);
  try {
    prompt = await toWav(blob);
    $("preview").src = URL.createObjectURL(prompt);
    $("preview").hidden = false;
    setStatus("The recording is ready; type its text below.");
  } catch (error) {
    prompt = null;
    $("preview").hidden = true;
    showError(error);
  }
}

async function toggleRecording() {
  if (recorder) {
    const running = recorder;
    recorder = null;
    $("record").setAttribute("aria-pressed", "false");
    $("record").textContent = "Record";
    await usePrompt(await running.stop());
    return;
  }
  showError(null);
  try {
    const running = await record();
    recorder = running;
    $("record").setAttribute("aria-pressed", "true");
    $("record").textContent = "Stop recording";
    setStatus("Recording …");
    running.ended.then(() => recorder === running && toggleRecording());
  } catch (error) {
    showError(error);
  }
}

$("form").addEventListener("submit", start);
$("stop").addEventListener("click", stop);
$("voice").addEventListener("change", showOwn);
$("record").addEventListener("click", toggleRecording);
$("file").addEventListener("change", () => $("file").files[0] && usePrompt($("file").files[0]));
$("speed").addEventListener("input", () => {
  $("speed-shown").textContent = Number($("speed").value).toFixed(2);
});
$("key").addEventListener("change", fillVoices);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("form").requestSubmit();
});
await fillVoices();
