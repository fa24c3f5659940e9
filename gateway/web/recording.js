// The user's own voice, from the microphone or a file, as a WAV file of at most 30 seconds.

const SAMPLE_RATE = 24000;
const MAX_SECONDS = 30;

/** Records until `stop` is called, which returns the recording. Rejects if access to the microphone is refused. */
export async function record() {
  if (!navigator.mediaDevices) throw new Error("browsers allow the microphone only on https pages and localhost");
  const stream = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: false, channelCount: 1 } });
  const recorder = new MediaRecorder(stream);
  const parts = [];
  recorder.ondataavailable = ({ data }) => parts.push(data);
  const ended = new Promise((resolve) => {
    recorder.onstop = resolve;
  });
  recorder.start();
  const limit = setTimeout(() => recorder.state === "recording" && recorder.stop(), MAX_SECONDS * 1000);
  return {
    ended,
    async stop() {
      clearTimeout(limit);
      if (recorder.state === "recording") recorder.stop();
      await ended;
      stream.getTracks().forEach((track) => track.stop());
      return new Blob(parts, { type: recorder.mimeType });
    },
  };
}

/** Converts any audio that the browser can read to a mono 16-bit WAV Blob. */
export async function toWav(blob) {
  const context = new OfflineAudioContext(1, 1, SAMPLE_RATE);
  const audio = await context.decodeAudioData(await blob.arrayBuffer()).catch(() => {
    throw new Error("the browser cannot read audio from this file");
  });
  const length = Math.min(audio.length, MAX_SECONDS * SAMPLE_RATE);
  const mix = new Float32Array(length);
  for (let channel = 0; channel < audio.numberOfChannels; channel += 1) {
    audio.getChannelData(channel).subarray(0, length).forEach((value, i) => {
      mix[i] += value / audio.numberOfChannels;
    });
  }
  return new Blob([header(length), Int16Array.from(mix, (value) => Math.max(-1, Math.min(1, value)) * 32767)], {
    type: "audio/wav",
  });
}

function header(length) {
  const view = new DataView(new ArrayBuffer(44));
  const text = (at, word) => [...word].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // mono
  view.setUint32(24, SAMPLE_RATE, true);
  view.setUint32(28, 2 * SAMPLE_RATE, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * length, true);
  return view.buffer;
}
