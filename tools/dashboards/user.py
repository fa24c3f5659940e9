"""Is the user fine? When speech begins, whether it stutters, which requests are refused."""

from __future__ import annotations

from tools.dashboards.panels import Board, Panel, Query, Row, mean, per_second, quantiles, rate, series, total

TTFA = "lighttts_gateway_time_to_first_audio_seconds"
RTF = "lighttts_gateway_real_time_factor"
DELIVERED = "lighttts_gateway_audio_delivered_seconds_total"
GATEWAYS = 'service="gateway"'
WITHIN = (('le="0.5"', "within 0.5 s"), ('le="1.0"', "within 1 s"))

_LISTENING = Row(
    "What listeners hear",
    (
        Panel(
            "Time to first audio",
            "From a stream's first text to its first audio. If it rises, the second dashboard shows which stage.",
            "s",
            (*quantiles(TTFA, 0.5, 0.95, 0.99), mean(TTFA)),
            warn_at=1.0,
        ),
        Panel(
            "Streams whose speech began in time",
            "Share of streams. The goal of the alerts is 99 % for the second curve.",
            "percentunit",
            tuple(
                Query(f"sum({rate(TTFA + '_bucket', bound)}) / sum({rate(TTFA + '_count')})", name)
                for bound, name in WITHIN
            ),
        ),
        Panel(
            "Silence per second of speech",
            "Share of the listening time that is silence. The budget of the alerts is 0.5 %.",
            "percentunit",
            (
                Query(
                    f"sum({rate('lighttts_gateway_underrun_seconds_total')}) / sum({rate(DELIVERED)})", "at the gateway"
                ),
            ),
            warn_at=0.005,
        ),
        Panel(
            "Underruns at the decode workers",
            "How often per second a listener ran out of audio, and for how long.",
            "short",
            (per_second("lighttts_decode_underruns_total"), per_second("lighttts_decode_underrun_seconds_total")),
        ),
        Panel(
            "Real-time factor",
            "Seconds spent per second of audio, by stream. Above 1 a stream cannot keep up.",
            "short",
            (*quantiles(RTF, 0.5, 0.95), mean(RTF)),
            warn_at=1.0,
        ),
        Panel(
            "Audio delivered, and generated but not used",
            "Seconds of audio per second. Audio that was not delivered belonged to listeners who left or interrupted.",
            "short",
            (
                per_second(DELIVERED),
                Query(
                    f"sum({rate('lighttts_gateway_audio_generated_seconds_total')}) - sum({rate(DELIVERED)})",
                    "not delivered",
                ),
            ),
        ),
    ),
)

USAGE = "lighttts_gateway_usage"

_USAGE = Row(
    "What API keys use",
    (
        Panel(
            "Sessions by key",
            "Admitted sessions per second, by the name of the API key.",
            "reqps",
            (per_second(f"{USAGE}_requests_total", "key"),),
        ),
        Panel(
            "Characters by key",
            "Characters per second received to be spoken.",
            "short",
            (per_second(f"{USAGE}_characters_total", "key"),),
        ),
        Panel(
            "Audio by key",
            "Seconds of audio delivered per second.",
            "short",
            (per_second(f"{USAGE}_audio_seconds_total", "key"),),
        ),
    ),
)

_ANSWERS = Row(
    "Answers to callers",
    (
        Panel(
            "Streams served now", "Streams of all APIs.", "short", (total("lighttts_gateway_sessions_active", "pod"),)
        ),
        Panel(
            "Text can be spoken",
            "1 while all services together can speak a text, by gateway; 0 at a gateway that starts or drains.",
            "short",
            (Query(f"min by (pod) ({series('lighttts_end_to_end', GATEWAYS)})", "{{pod}}"),),
        ),
        Panel(
            "Refused by full stage",
            "New sessions that were refused, by the service that was full. Admitted sessions are not refused.",
            "reqps",
            (per_second("lighttts_gateway_refusals_total", "stage"),),
        ),
        Panel(
            "Errors by API and reason",
            "Invalid requests, missing keys, overload, and defects.",
            "reqps",
            (per_second("lighttts_gateway_errors_total", "front, reason"),),
        ),
        Panel(
            "Calls at the gateway by status",
            "RESOURCE_EXHAUSTED: full. UNAVAILABLE: no worker. INTERNAL: a defect; the log has the trace.",
            "reqps",
            (per_second("lighttts_rpc_finished_total", "code", 'method=~"/lighttts.v1.(TextToSpeech|Voices)/.*"'),),
        ),
        Panel(
            "Speech cut off",
            "Cut by barge-in or by a client that disconnected; for llm workers, the phase of the utterance.",
            "ops",
            (
                per_second("lighttts_gateway_cancellations_total", "by"),
                per_second("lighttts_llm_cancellations_total", "phase"),
            ),
        ),
        Panel(
            "Utterances that moved",
            "Moves to another decode or llm worker, by reason and outcome. Listeners do not notice a move; failed "
            "utterances ended with an error. Many moves mean a faulty worker.",
            "ops",
            (
                per_second("lighttts_llm_decode_moves_total", "reason, outcome"),
                per_second("lighttts_gateway_llm_moves_total", "reason, outcome"),
            ),
        ),
        Panel(
            "Gap at a move",
            "From the loss of a decode worker to the next audio. The listener's lead must cover it.",
            "s",
            quantiles("lighttts_llm_decode_seam_seconds", 0.5, 0.95),
        ),
        Panel(
            "Result cache",
            "If the result cache is on: whole texts by origin. Cached or shared speech uses no GPU.",
            "ops",
            (per_second("lighttts_gateway_results_total", "how"),),
        ),
        Panel(
            "Failed evictions of deleted voices",
            "Evictions that did not reach a worker; each is repeated until the worker answers or is gone.",
            "ops",
            (per_second("lighttts_gateway_voices_not_forgotten_total"),),
        ),
        Panel(
            "Connections closed by the gateway",
            "By reason: a limit on connections, or a deadline of a handshake, header or first message.",
            "ops",
            (per_second("lighttts_gateway_connections_closed_total", "reason"),),
        ),
        Panel("Serving pods", "Number of pods that report SERVING.", "short", (total("lighttts_ready", "service"),)),
    ),
)

BOARD = Board(
    "light-tts-user",
    "light-tts / Is the user fine?",
    "When speech begins, whether it stutters, which requests are refused.",
    (_LISTENING, _ANSWERS, _USAGE),
)
