// The clients for JavaScript: OpenAI's and the AI SDK's, against a running gateway:
//
//     node check_node.mjs FOLDER_WITH_NODE_MODULES
//
// They find the gateway by LIGHTTTS_HTTP.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { resolve } from "node:path";

const require = createRequire(resolve(process.argv[2], "check.js"));
const OpenAI = require("openai");
const { experimental_generateSpeech: generateSpeech } = require("ai");
const { createOpenAI } = require("@ai-sdk/openai");

const TEXT = "Good morning, Alice.";
const BASE = `${process.env.LIGHTTTS_HTTP}/v1`;
const BEGINS = { mp3: "", opus: "OggS", aac: "\xff", flac: "fLaC", wav: "RIFF", pcm: "" };

function checkAudio(audio, format) {
  assert.ok(audio.length > 2000, format);
  assert.ok(Buffer.from(audio).toString("latin1").startsWith(BEGINS[format]), format);
}

async function checkOpenAI() {
  const client = new OpenAI({ baseURL: BASE, apiKey: "none", maxRetries: 0 });
  const speak = (more) => client.audio.speech.create({ model: "gpt-4o-mini-tts", voice: "alloy", input: TEXT, ...more });
  for (const response_format of Object.keys(BEGINS)) {
    const answer = await speak({ response_format });
    assert.ok(answer.headers.get("x-sample-rate"), response_format);
    checkAudio(new Uint8Array(await answer.arrayBuffer()), response_format);
  }

  let bytes = 0;
  for await (const chunk of (await speak({ response_format: "pcm" })).body) bytes += chunk.length;
  assert.ok(bytes > 24000, `${bytes} bytes as a stream`);

  const answer = await speak({ stream_format: "sse", response_format: "pcm", instructions: "Speak in a calm voice." });
  assert.match(answer.headers.get("content-type"), /^text\/event-stream/);
  assert.match(answer.headers.get("x-light-tts-warning"), /^instructions_ignored/);
  const events = (await answer.text()).split("\n").filter(Boolean).map((line) => JSON.parse(line.slice("data: ".length)));
  assert.equal(events.at(-1).type, "speech.audio.done");
  assert.ok(events.slice(0, -1).every((event) => event.type === "speech.audio.delta"));

  const models = [];
  for await (const model of client.models.list()) models.push(model.id);
  assert.ok(models.includes("gpt-4o-mini-tts"), `${models}`);
  assert.equal((await client.models.retrieve(models[0])).id, models[0]);

  await assert.rejects(speak({ voice: "nobody" }), (error) => error instanceof OpenAI.NotFoundError && error.param === "voice");
  await assert.rejects(speak({ speed: 9 }), (error) => error instanceof OpenAI.BadRequestError && error.param === "speed");

  const stop = new AbortController();
  const stopped = await client.audio.speech.create(
    { model: "tts-1", voice: "alloy", input: `${TEXT} `.repeat(100), response_format: "pcm" },
    { signal: stop.signal },
  );
  await assert.rejects(async () => {
    for await (const _ of stopped.body) stop.abort();
  });
}

async function checkAISDK() {
  const openai = createOpenAI({ baseURL: BASE, apiKey: "none" });
  const speak = (more) => generateSpeech({ model: openai.speech("tts-1"), text: TEXT, maxRetries: 0, ...more });
  const plain = await speak();
  assert.equal(plain.audio.format, "mp3");
  checkAudio(plain.audio.uint8Array, "mp3");
  for (const outputFormat of ["opus", "wav", "pcm"]) {
    const { audio } = await speak({ voice: "anna", outputFormat, speed: 1.2 });
    checkAudio(audio.uint8Array, outputFormat);
  }
  const followed = await speak({ model: openai.speech("gpt-4o-mini-tts"), instructions: "Speak in a calm voice.", language: "en" });
  checkAudio(followed.audio.uint8Array, "mp3");
  await assert.rejects(speak({ voice: "nobody" }), (error) => error.statusCode === 404 && /nobody/.test(error.message));
}

await checkOpenAI();
await checkAISDK();
