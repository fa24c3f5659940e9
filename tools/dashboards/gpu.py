"""GPU: the state of the devices (NVIDIA's DCGM exporter) and how the engines use them."""

from __future__ import annotations

from tools.dashboards.panels import Board, Panel, Query, Row, mean, per_second, rate, series, total

_DEVICES = Row(
    "Devices (DCGM exporter)",
    (
        Panel(
            "Utilisation",
            "Share of time in which a kernel runs.",
            "percentunit",
            (Query(f"{series('DCGM_FI_DEV_GPU_UTIL')} / 100", "{{pod}} GPU {{gpu}}"),),
        ),
        Panel(
            "Tensor cores in use",
            "If utilisation is high and tensor cores are idle, launches or memory are the limit; larger batches help.",
            "percentunit",
            (Query(series("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE"), "{{pod}} GPU {{gpu}}"),),
        ),
        Panel(
            "Memory",
            "Used and free memory.",
            "bytes",
            (
                Query(f"{series('DCGM_FI_DEV_FB_USED')} * 1048576", "{{pod}} GPU {{gpu}} used"),
                Query(f"{series('DCGM_FI_DEV_FB_FREE')} * 1048576", "{{pod}} GPU {{gpu}} free"),
            ),
        ),
        Panel(
            "Power",
            "The clock drops near the power limit of the device.",
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
            "Clock of the multiprocessors, in MHz.",
            "none",
            (Query(series("DCGM_FI_DEV_SM_CLOCK"), "{{pod}} GPU {{gpu}}"),),
        ),
        Panel(
            "XID errors",
            "Code of the latest error. If it is not 0, check the node.",
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
            "Memory in use, and the budget. At the budget, the least urgent states are evicted and recomputed later.",
            "bytes",
            (total("lighttts_decode_state_bytes", "pod, kind"),),
        ),
        Panel(
            "State memory evicted",
            "Bytes per second.",
            "bytes",
            (per_second("lighttts_decode_evicted_bytes_total", "pod"),),
        ),
        Panel(
            "K/V blocks of the llm workers",
            "Blocks in use, and all blocks.",
            "short",
            (total("lighttts_llm_kv_blocks_used", "pod"), total("lighttts_llm_kv_blocks", "pod")),
        ),
        Panel(
            "Time in batches",
            "Compare with the device's utilisation: a busy engine on an idle device waits for its host.",
            "percentunit",
            (Query(f"sum by (pod) ({rate('lighttts_decode_busy_seconds_total')})", "{{pod}}"),),
        ),
        Panel(
            "Batch sizes",
            "Mean number of hops (decode) and utterances (llm) per batch.",
            "short",
            (mean("lighttts_decode_batch_hops", "hops"), mean("lighttts_llm_batch_size", "utterances")),
        ),
        Panel(
            "Hops computed again in float32",
            "The lower precision overflowed. If there are many, set decode_precision to bfloat16 or float32.",
            "ops",
            (per_second("lighttts_decode_non_finite_total", "pod"),),
        ),
        Panel(
            "Batches without a CUDA graph",
            "No prepared graph had the shape of these batches, so their kernels were launched one by one.",
            "ops",
            (per_second("lighttts_decode_unprepared_batches_total", "pod"),),
        ),
    ),
)

BOARD = Board(
    "light-tts-gpu",
    "light-tts / GPU",
    "The state of the devices, and how the engines use them.",
    (_DEVICES, _ENGINES),
)
