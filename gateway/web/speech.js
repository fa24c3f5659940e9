// The APIs that this page uses: the list of voices, and the WebSocket for speech.

export const SAMPLE_RATE = 24000;
const AUDIO = { encoding: "AUDIO_ENCODING_PCM_S16LE", sample_rate: SAMPLE_RATE };

function problem(words, unauthenticated) {
  return Object.assign(new Error(words), { unauthenticated });
}

/** Returns the voices: [{id, name}]. */
export async function listVoices(key) {
  const response = await fetch("/v1/audio/voices", { headers: key ? { authorization: `Bearer ${key}` } : {} });
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer.data;
  throw problem(answer.error?.message ?? `the server answered ${response.status}`, response.status === 401);
}

/**
 * Yields the events of the server ({started}, {audio}, {warning} ...), and {samples: Float32Array} after each {audio}.
 * `recording`: a Blob, if `config` has a prompt. Aborting `signal` also ends the synthesis on the server.
 */
export async function* speak(config, recording, text, key, signal) {
  const address = `${location.protocol.replace("http", "ws")}//${location.host}/v1/conversation`;
  const socket = new WebSocket(address, key ? ["lighttts", `lighttts.key.${key}`] : ["lighttts"]);
  const frames = [];
  let wake = () => {};
  const take = (frame) => {
    frames.push(frame);
    wake();
  };
  socket.binaryType = "arraybuffer";
  socket.onopen = () => {
    socket.send(JSON.stringify({ config: { ...config, audio: AUDIO, word_times: true } }));
    if (recording) socket.send(recording);
    socket.send(JSON.stringify({ text }));
    socket.send(JSON.stringify({ end: {} }));
  };
  socket.onmessage = ({ data }) => take(data);
  socket.onclose = () => take(null);
  signal.addEventListener("abort", () => socket.close());
  try {
    for (let finished = false; ; ) {
      while (!frames.length) await new Promise((resolve) => (wake = resolve));
      const frame = frames.shift();
      if (frame === null && finished) return;
      if (frame === null) throw problem("the connection to the server was lost");
      if (typeof frame !== "string") {
        if (frame.byteLength) yield { samples: samples(frame) };
        continue;
      }
      const event = JSON.parse(frame);
      if (event.error) throw problem(event.error.message, event.error.reason === "UNAUTHENTICATED");
      finished ||= "finished" in event;
      yield event;
    }
  } finally {
    socket.close();
  }
}

function samples(buffer) {
  const view = new DataView(buffer);
  return Float32Array.from({ length: buffer.byteLength / 2 }, (_, index) => view.getInt16(2 * index, true) / 32768);
}
