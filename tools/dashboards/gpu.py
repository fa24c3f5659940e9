"""GPU: what the devices do (by NVIDIA's DCGM exporter), beside what the engines make of them."""

from __future__ import annotations

from tools.dashboards.panels import Board, Panel, Query, Row, mean, per_second, rate, series, total

_DEVICES = Row(
    "Devices (DCGM exporter)",
    (
        Panel(
            "Utilisation",
            "Share of time with a kernel running.",
            "percentunit",
            (Query(f"{series('DCGM_FI_DEV_GPU_UTIL')} / 100", "{{pod}} GPU {{gpu}}"),),
        ),
        Panel(
            "Tensor cores in use",
            "High utilisation with idle tensor cores: launches or memory are the limit; larger batches help.",
            "percentunit",
            (Query(series("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE"), "{{pod}} GPU {{gpu}}"),),
        ),
        Panel(
            "Memory",
            "In use and free.",
            "bytes",
            (
                Query(f"{series('DCGM_FI_DEV_FB_USED')} * 1048576", "{{pod}} GPU {{gpu}} used"),
                Query(f"{series('DCGM_FI_DEV_FB_FREE')} * 1048576", "{{pod}} GPU {{gpu}} free"),
            ),
        ),
        Panel(
            "Power",
            "Near the device's limit its clock falls.",
            "watt",
            (Query(series("DCGM_FI_DEV_POWER_USAGE"), "{{pod}} GPU {{gpu}}"),),
        ),
        Panel(
            "Temperature",
            "Above 85 °C devices slow down.",
            "celsius",
            (Query(series("DCGM_FI_DEV_GPU_TEMP"), "{{pod}} GPU {{gpu}}"),),
            warn_at=85,
        ),
        Panel(
            "Clock",
            "Of the multiprocessors, in MHz.",
            "none",
            (Query(series("DCGM_FI_DEV_SM_CLOCK"), "{{pod}} GPU {{gpu}}"),),
        ),
        Panel(
            "XID errors",
            "The code of the latest; anything but 0 wants a look at the node.",
            "none",
            (Query(series("DCGM_FI_DEV_XID_ERRORS"), "{{pod}} GPU {{gpu}}"),),
        ),
    ),
)

_ENGINES = Row(
    "Engines",
    (
        Panel(
            "Memory of decode states",
            "Kept, and the budget. At the budget the least urgent states are given up and computed again.",
            "bytes",
            (total("lighttts_decode_state_bytes", "pod, kind"),),
        ),
        Panel(
            "State memory given up",
            "Bytes per second.",
            "bytes",
            (per_second("lighttts_decode_evicted_bytes_total", "pod"),),
        ),
        Panel(
            "K/V blocks of the llm workers",
            "In use, and there.",
            "short",
            (total("lighttts_llm_kv_blocks_used", "pod"), total("lighttts_llm_kv_blocks", "pod")),
        ),
        Panel(
            "Time in batches",
            "Beside the device's utilisation: a busy engine on an idle device waits for its host.",
            "percentunit",
            (Query(f"sum by (pod) ({rate('lighttts_decode_busy_seconds_total')})", "{{pod}}"),),
        ),
        Panel(
            "Batch sizes",
            "Hops at decode, utterances at llm.",
            "short",
            (mean("lighttts_decode_batch_hops", "hops"), mean("lighttts_llm_batch_size", "utterances")),
        ),
        Panel(
            "Hops computed again in float32",
            "The lower precision overflowed. More than a few: set decode_precision to bfloat16 or float32.",
            "ops",
            (per_second("lighttts_decode_non_finite_total", "pod"),),
        ),
    ),
)

BOARD = Board(
    "light-tts-gpu",
    "light-tts / GPU",
    "What the devices do, beside what the engines make of them.",
    (_DEVICES, _ENGINES),
)
