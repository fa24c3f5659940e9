// The only API that this page uses: OpenAI's, with headerless 16-bit samples, streamed while they are made.

export const SAMPLE_RATE = 24000;

function headers(key) {
  return key ? { authorization: `Bearer ${key}` } : {};
}

async function refusal(response) {
  const answer = await response.json().catch(() => ({}));
  const error = new Error(answer.error?.message ?? `the server answered ${response.status}`);
  error.status = response.status;
  return error;
}

/** Returns the voices: [{id, name}]. */
export async function listVoices(key) {
  const response = await fetch("/v1/audio/voices", { headers: headers(key) });
  if (!response.ok) throw await refusal(response);
  return (await response.json()).data;
}

/** Yields Float32Arrays of samples as they arrive. Aborting `signal` also ends the synthesis on the server. */
export async function* speak(request, key, signal) {
  const response = await fetch("/v1/audio/speech", {
    method: "POST",
    headers: { "content-type": "application/json", ...headers(key) },
    body: JSON.stringify({ ...request, response_format: "pcm" }),
    signal,
  });
  if (!response.ok) throw await refusal(response);
  const reader = response.body.getReader();
  let half = new Uint8Array(0); // the network may split a sample
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const bytes = new Uint8Array(half.length + value.length);
    bytes.set(half);
    bytes.set(value, half.length);
    const whole = bytes.length - (bytes.length % 2);
    half = bytes.slice(whole);
    if (whole) yield samples(bytes.buffer, whole);
  }
}

function samples(buffer, length) {
  const view = new DataView(buffer, 0, length);
  return Float32Array.from({ length: length / 2 }, (_, index) => view.getInt16(2 * index, true) / 32768);
}
