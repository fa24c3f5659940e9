"""Where is the time? The latency of each stage of an utterance, and its parts."""

from __future__ import annotations

from tools.dashboards.panels import Board, Panel, Query, Row, mean, per_second, quantiles, total

_STAGES = Row(
    "From text to first audio",
    (
        Panel(
            "First audio by stage (p95)",
            "The stage whose curve rises together with the gateway's takes the time.",
            "s",
            (
                *quantiles("lighttts_gateway_time_to_first_audio_seconds", 0.95, name="gateway: first audio"),
                *quantiles("lighttts_encode_voice_seconds", 0.95, name="encode: a new voice"),
                *quantiles("lighttts_llm_first_token_seconds", 0.95, name="llm: first token"),
                *quantiles("lighttts_decode_first_audio_seconds", 0.95, name="decode: first audio"),
            ),
        ),
        Panel(
            "Parts of the time to first audio (mean)",
            "As measured by the gateway. The parts sum to the whole time.",
            "s",
            (mean("lighttts_gateway_first_audio_stage_seconds", "{{stage}}", by="stage"),),
        ),
        Panel(
            "Length of calls (p95)",
            "Streams last as long as their audio. Unary calls should be short.",
            "s",
            quantiles("lighttts_rpc_duration_seconds", 0.95, by="method"),
        ),
        Panel(
            "Speech ahead of its listener (median)",
            "Audio that a listener still has when more is generated. Near zero, playback may stutter.",
            "s",
            (
                *quantiles("lighttts_llm_lead_seconds", 0.5, name="llm"),
                *quantiles("lighttts_decode_playback_lead_seconds", 0.5, 0.05, name="decode"),
            ),
        ),
    ),
)

_ENCODE = Row(
    "encode",
    (
        Panel(
            "Steps of extracting a voice (p95)",
            "Decoding the file, features, speech tokens, speaker embedding.",
            "s",
            quantiles("lighttts_encode_step_seconds", 0.95, by="step"),
        ),
        Panel(
            "Voices by outcome, and in progress",
            "cached voices cost nothing; extracted voices are new; voices in progress are being extracted now.",
            "short",
            (per_second("lighttts_encode_voices_total", "outcome"), total("lighttts_encode_voices_in_work")),
        ),
        Panel(
            "Input",
            "Characters of text and bytes of prompt audio per second.",
            "short",
            (per_second("lighttts_encode_text_characters_total"), per_second("lighttts_encode_prompt_bytes_total")),
        ),
        Panel("Cached voices", "Number of voices per pod.", "short", (total("lighttts_encode_cache_voices", "pod"),)),
        Panel("Memory of cached voices", "Bytes per pod.", "bytes", (total("lighttts_encode_cache_bytes", "pod"),)),
    ),
)

_LLM = Row(
    "llm",
    (
        Panel(
            "Engine step",
            "A second of speech has 25 tokens: steps below 40 ms keep up with every listener in the batch.",
            "s",
            quantiles("lighttts_llm_step_duration_seconds", 0.5, 0.95),
            warn_at=0.04,
        ),
        Panel("Utterances per step", "Mean batch size.", "short", (mean("lighttts_llm_batch_size"),)),
        Panel(
            "Tokens per second",
            "Generated speech tokens, and prompt rows.",
            "short",
            (per_second("lighttts_llm_tokens_generated_total"), per_second("lighttts_llm_prefill_tokens_total")),
        ),
    ),
)

_DECODE = Row(
    "decode",
    (
        Panel(
            "Length of a batch",
            "Seconds of flow and vocoder.",
            "s",
            quantiles("lighttts_decode_batch_seconds", 0.5, 0.95),
        ),
        Panel("Hops per batch", "Mean batch size.", "short", (mean("lighttts_decode_batch_hops"),)),
        Panel(
            "Where decode spends its time",
            "Seconds of each phase per second, over all workers.",
            "short",
            (per_second("lighttts_decode_phase_seconds_total", "phase"),),
        ),
        Panel(
            "Hops and tokens per second",
            "Fewer, larger hops cost less. Hops grow with a stream's lead.",
            "short",
            (per_second("lighttts_decode_hops_total"), per_second("lighttts_decode_tokens_total")),
        ),
        Panel(
            "Seconds of audio per second",
            "Generated audio. Divided by the number of streams, it is the speed of one stream (at 24 kHz).",
            "short",
            (Query(per_second("lighttts_decode_samples_total", "pod").expr + " / 24000", "{{pod}}"),),
        ),
        Panel(
            "Prompts computed and shared",
            "A stream with a known voice shares the prompt's state instead of computing it.",
            "ops",
            (per_second("lighttts_decode_prompts_total", "how"),),
        ),
    ),
)

BOARD = Board(
    "light-tts-time",
    "light-tts / Where is the time?",
    "Which stage, and which part of it, takes the time that listeners wait.",
    (_STAGES, _ENCODE, _LLM, _DECODE),
)
