"""Pool and scaling: who is there and healthy, what waits, how much is left, what the autoscalers do."""

from __future__ import annotations

from tools.dashboards.panels import Board, Panel, Query, Row, highest, per_second, rate, series, total

_OURS = 'pod=~".*-(encode|llm|decode|gateway|single)-.*"'
"""Outside families speak of every pod of a namespace."""
_DEPLOYED = 'deployment=~".*-(encode|llm|decode|gateway|single)"'
_RESTARTS = "kube_pod_container_status_restarts_total"
_SCALED = 'horizontalpodautoscaler=~".*-(encode|llm|decode|gateway)"'

_POOLS = Row(
    "Pools, as their callers see them",
    (
        Panel(
            "Workers known and healthy",
            "Discovery lists the known ones; the healthy ones are given work. Per caller and pool.",
            "short",
            (
                Query(f"max by (pool) ({series('lighttts_pool_workers_known')})", "{{pool}} known"),
                Query(f"max by (pool) (sum by (pod, pool) ({series('lighttts_pool_healthy')}))", "{{pool}} healthy"),
            ),
        ),
        Panel(
            "Leases held",
            "Calls that run at each worker.",
            "short",
            (total("lighttts_pool_leases_active", "pool, worker"),),
        ),
        Panel(
            "Leases given",
            "Even curves: the balance is right.",
            "ops",
            (per_second("lighttts_pool_leases_total", "pool, worker"),),
        ),
        Panel(
            "Failures of workers",
            "By reason; a worker that fails again and again is left alone for a while.",
            "ops",
            (per_second("lighttts_pool_failures_total", "pool, worker, reason"),),
        ),
        Panel(
            "Refused for lack of a worker",
            "No worker of the pool was healthy in time.",
            "ops",
            (per_second("lighttts_pool_refusals_total", "pool"),),
        ),
        Panel(
            "Failed lookups",
            "Discovery cannot ask; the last known workers stand.",
            "ops",
            (per_second("lighttts_discovery_failures_total", "target"),),
        ),
    ),
)

_QUEUES = Row(
    "What waits, and what is left",
    (
        Panel(
            "Streams at the decode workers",
            "Open, and how many may be; those nobody listens to; waiting for first audio; ready to be decoded.",
            "short",
            (
                total("lighttts_decode_streams"),
                total("lighttts_decode_streams_limit"),
                total("lighttts_decode_streams_offline"),
                total("lighttts_decode_streams_queued"),
                total("lighttts_decode_hops_ready"),
            ),
        ),
        Panel(
            "Longest wait for first audio",
            "At the slowest decode worker.",
            "s",
            (highest("lighttts_decode_queue_oldest_seconds", "class"),),
            warn_at=1.0,
        ),
        Panel(
            "Decode workers' time in use",
            "1 is full: no headroom is left. Scale out above 0.8.",
            "percentunit",
            (Query(f"sum by (pod) ({rate('lighttts_decode_busy_seconds_total')})", "{{pod}}"),),
            warn_at=0.8,
        ),
        Panel(
            "Utterances at the llm workers",
            "Running, held back by their lead, paused for others, waiting for K/V blocks.",
            "short",
            tuple(total(f"lighttts_llm_sequences_{state}") for state in ("running", "held", "paused", "waiting")),
        ),
        Panel(
            "K/V blocks in use",
            "Of the llm workers' cache.",
            "percentunit",
            (
                Query(
                    f"sum by (pod) ({series('lighttts_llm_kv_blocks_used')})"
                    f" / sum by (pod) ({series('lighttts_llm_kv_blocks')})",
                    "{{pod}}",
                ),
            ),
            warn_at=0.9,
        ),
        Panel(
            "Memory given up for others",
            "llm utterances that lost their blocks, decode states evicted, and mel frames computed again for it.",
            "ops",
            (
                per_second("lighttts_llm_preemptions_total"),
                per_second("lighttts_decode_evictions_total"),
                per_second("lighttts_decode_recomputed_frames_total"),
            ),
        ),
        Panel(
            "Calls",
            "Arriving per second, and running.",
            "short",
            (per_second("lighttts_rpc_started_total", "service"), total("lighttts_rpc_active", "service")),
        ),
        Panel(
            "Utterances that ended",
            "At the decode workers, by outcome.",
            "ops",
            (per_second("lighttts_decode_streams_ended_total", "outcome"),),
        ),
        Panel(
            "Engines turn",
            "A live engine's number grows, idle or not; a flat zero is a hung one.",
            "ops",
            (
                per_second("lighttts_decode_engine_steps_total", "pod"),
                Query(f"sum by (pod) ({rate('lighttts_llm_engine_turns')})", "{{pod}}"),
            ),
        ),
    ),
)

_CLUSTER = Row(
    "The cluster (kube-state-metrics, cert-manager)",
    (
        Panel(
            "Replicas wanted and available",
            "Wanted by the Deployment; available when Ready.",
            "short",
            (
                Query(series("kube_deployment_spec_replicas", _DEPLOYED), "{{deployment}} wanted"),
                Query(series("kube_deployment_status_replicas_available", _DEPLOYED), "{{deployment}} available"),
            ),
        ),
        Panel(
            "Autoscalers",
            "At the maximum they can do no more.",
            "short",
            (
                Query(
                    series("kube_horizontalpodautoscaler_status_desired_replicas", _SCALED),
                    "{{horizontalpodautoscaler}} desired",
                ),
                Query(
                    series("kube_horizontalpodautoscaler_spec_max_replicas", _SCALED),
                    "{{horizontalpodautoscaler}} maximum",
                ),
            ),
        ),
        Panel(
            "Restarts and pods that wait",
            "A restart's reason is in the pod's termination message.",
            "short",
            (
                Query(
                    f"sum by (pod) (increase({series(_RESTARTS, _OURS)}[$__rate_interval]))",
                    "{{pod}} restarts",
                ),
                Query(f"sum by (reason) ({series('kube_pod_container_status_waiting_reason', _OURS)})", "{{reason}}"),
            ),
        ),
        Panel(
            "Certificates: time left",
            "Of the certificates that pods show, and of those that cert-manager made: a renewal is read with the next "
            "connection.",
            "s",
            (
                Query(
                    f"min by (service, file) ({series('lighttts_tls_certificate_expiry_timestamp_seconds')}) - time()",
                    "{{service}} {{file}}",
                ),
                Query(f"{series('certmanager_certificate_expiration_timestamp_seconds')} - time()", "{{name}}"),
            ),
        ),
    ),
)

BOARD = Board(
    "light-tts-pool",
    "light-tts / Pool and scaling",
    "Who is there and healthy, what waits, how much is left, what the autoscalers do.",
    (_POOLS, _QUEUES, _CLUSTER),
)
