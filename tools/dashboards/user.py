"""Is the user fine? What listeners get: when speech begins, whether it stutters, what is refused."""

from __future__ import annotations

from tools.dashboards.panels import Board, Panel, Query, Row, mean, per_second, quantiles, rate, total

TTFA = "lighttts_gateway_time_to_first_audio_seconds"
RTF = "lighttts_gateway_real_time_factor"
DELIVERED = "lighttts_gateway_audio_delivered_seconds_total"
WITHIN = (('le="0.5"', "within 0.5 s"), ('le="1.0"', "within 1 s"))

_LISTENING = Row(
    "What listeners hear",
    (
        Panel(
            "Time to first audio",
            "From a stream's first text to its first audio. When it rises, the second dashboard says where.",
            "s",
            (*quantiles(TTFA, 0.5, 0.95, 0.99), mean(TTFA)),
            warn_at=1.0,
        ),
        Panel(
            "Streams whose speech began in time",
            "Share of streams; the alerts burn the budget of the second curve, 99 %.",
            "percentunit",
            tuple(
                Query(f"sum({rate(TTFA + '_bucket', bound)}) / sum({rate(TTFA + '_count')})", name)
                for bound, name in WITHIN
            ),
        ),
        Panel(
            "Silence per second of speech",
            "How much of the listening time is waiting. Budget of the alerts: 0.5 %.",
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
            "Times per second that a playing listener had nothing left, and how long it had nothing.",
            "short",
            (per_second("lighttts_decode_underruns_total"), per_second("lighttts_decode_underrun_seconds_total")),
        ),
        Panel(
            "Real-time factor",
            "Seconds spent per second of audio, by stream; above 1 a stream cannot keep up.",
            "short",
            (*quantiles(RTF, 0.5, 0.95), mean(RTF)),
            warn_at=1.0,
        ),
        Panel(
            "Audio delivered, and generated in vain",
            "Seconds of audio per second. What was generated but not delivered went to listeners who left.",
            "short",
            (
                per_second(DELIVERED),
                Query(
                    f"sum({rate('lighttts_gateway_audio_generated_seconds_total')}) - sum({rate(DELIVERED)})",
                    "generated in vain",
                ),
            ),
        ),
    ),
)

_ANSWERS = Row(
    "What callers are answered",
    (
        Panel(
            "Streams served now", "Over all interfaces.", "short", (total("lighttts_gateway_sessions_active", "pod"),)
        ),
        Panel(
            "Errors by interface and reason",
            "Refusals of bad requests, of callers without a key, of overload, and defects.",
            "reqps",
            (per_second("lighttts_gateway_errors_total", "front, reason"),),
        ),
        Panel(
            "Calls at the gateway by status",
            "RESOURCE_EXHAUSTED: full. UNAVAILABLE: no worker. INTERNAL: a defect, the log has its trace.",
            "reqps",
            (per_second("lighttts_rpc_finished_total", "code", 'method=~"/lighttts.v1.(TextToSpeech|Voices)/.*"'),),
        ),
        Panel(
            "Speech cut off",
            "By barge-in or by a client that went away, and what it was doing at the llm workers.",
            "ops",
            (
                per_second("lighttts_gateway_cancellations_total", "by"),
                per_second("lighttts_llm_cancellations_total", "phase"),
            ),
        ),
        Panel(
            "Utterances that moved",
            "To another decode or llm worker, by reason and outcome. Listeners hear no seam of what moved; what failed "
            "ended there. Many mean a sick worker.",
            "ops",
            (
                per_second("lighttts_llm_decode_moves_total", "reason, outcome"),
                per_second("lighttts_gateway_llm_moves_total", "reason, outcome"),
            ),
        ),
        Panel(
            "Gap at a move",
            "From the loss of a decode worker to the next audio, which the listener's lead must cover.",
            "s",
            quantiles("lighttts_llm_decode_seam_seconds", 0.5, 0.95),
        ),
        Panel(
            "Whole texts remembered",
            "Where the result cache is on: remembered or shared speech costs no GPU.",
            "ops",
            (per_second("lighttts_gateway_results_total", "how"),),
        ),
        Panel(
            "Deleted voices not forgotten",
            "Workers not yet told to forget a deleted voice; each is told again until it answers or has gone.",
            "ops",
            (per_second("lighttts_gateway_voices_not_forgotten_total"),),
        ),
        Panel(
            "Pods that serve", "1 for each pod that reports SERVING.", "short", (total("lighttts_ready", "service"),)
        ),
    ),
)

BOARD = Board(
    "light-tts-user",
    "light-tts / Is the user fine?",
    "When speech begins, whether it stutters, what is refused.",
    (_LISTENING, _ANSWERS),
)
