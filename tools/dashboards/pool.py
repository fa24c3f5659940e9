"""Pool and scaling: known and healthy workers, queues, headroom, autoscalers."""

from __future__ import annotations

from tools.dashboards.panels import Board, Panel, Query, Row, highest, per_second, rate, series, total

_OURS = 'pod=~".*-(encode|llm|decode|gateway|single)-.*"'
"""Metrics from outside cover every pod of a namespace; this selects ours."""
_DEPLOYED = 'deployment=~".*-(encode|llm|decode|gateway|single)"'
_RESTARTS = "kube_pod_container_status_restarts_total"
_SCALED = 'horizontalpodautoscaler=~".*-(encode|llm|decode|gateway)"'

_POOLS = Row(
    "Pools, from their callers",
    (
        Panel(
            "Workers known and healthy",
            "Discovery lists the known workers; healthy ones receive work. Per pool, from the caller with the most.",
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
            "Work is balanced if the curves are level.",
            "ops",
            (per_second("lighttts_pool_leases_total", "pool, worker"),),
        ),
        Panel(
            "Failures of workers",
            "By reason. A worker that fails repeatedly is not used for a while.",
            "ops",
            (per_second("lighttts_pool_failures_total", "pool, worker, reason"),),
        ),
        Panel(
            "Refused for lack of a worker",
            "No worker of the pool became healthy in time.",
            "ops",
            (per_second("lighttts_pool_refusals_total", "pool"),),
        ),
        Panel(
            "Failed lookups",
            "Lookups by discovery that failed. The last known workers stay in use.",
            "ops",
            (per_second("lighttts_discovery_failures_total", "target"),),
        ),
    ),
)

_QUEUES = Row(
    "Queues and headroom",
    (
        Panel(
            "Streams at the decode workers",
            "Open streams and their limit; offline streams; streams that wait for first audio; hops that are ready.",
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
            "Sessions that wait in line",
            "Streams of admitted sessions for which no worker of the stage has a place. They slow down, and go on.",
            "short",
            (total("lighttts_streams_waiting_in_line", "stage"),),
        ),
        Panel(
            "Longest wait for first audio",
            "Longest wait at any decode worker.",
            "s",
            (highest("lighttts_decode_queue_oldest_seconds", "class"),),
            warn_at=1.0,
        ),
        Panel(
            "Decode workers' time in use",
            "At 1 there is no headroom. Add workers above 0.8.",
            "percentunit",
            (Query(f"sum by (pod) ({rate('lighttts_decode_busy_seconds_total')})", "{{pod}}"),),
            warn_at=0.8,
        ),
        Panel(
            "Utterances at the llm workers",
            "Utterances that run, are held back by their lead, are paused for others, or wait for K/V blocks.",
            "short",
            tuple(total(f"lighttts_llm_sequences_{state}") for state in ("running", "held", "paused", "waiting")),
        ),
        Panel(
            "K/V blocks in use",
            "Share of the llm workers' K/V cache in use.",
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
            "Memory evicted for other streams",
            "Preempted llm utterances, evicted decode states, and mel frames that were recomputed because of that.",
            "ops",
            (
                per_second("lighttts_llm_preemptions_total"),
                per_second("lighttts_decode_evictions_total"),
                per_second("lighttts_decode_recomputed_frames_total"),
            ),
        ),
        Panel(
            "Calls",
            "New calls per second, and running calls.",
            "short",
            (per_second("lighttts_rpc_started_total", "service"), total("lighttts_rpc_active", "service")),
        ),
        Panel(
            "Ended utterances",
            "Utterances that ended at the decode workers, by outcome.",
            "ops",
            (per_second("lighttts_decode_streams_ended_total", "outcome"),),
        ),
        Panel(
            "Canary failures",
            "Workers that ended themselves, because a fixed short hop or step failed after an engine error.",
            "short",
            (
                Query(f"sum by (pod) (increase({series('lighttts_decode_canary_failures_total')}[15m]))", "{{pod}}"),
                Query(f"sum by (pod) (increase({series('lighttts_llm_canary_failures_total')}[15m]))", "{{pod}}"),
            ),
        ),
        Panel(
            "Tasks of the event loop",
            "Tasks per pod. A number that grows while the load does not is a leak.",
            "short",
            (total("lighttts_event_loop_tasks", "pod"),),
        ),
        Panel(
            "Engine steps",
            "Turns of the engine's loop per second, idle turns included. Zero means that the engine hangs.",
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
            "Replicas that the Deployment requests, and replicas that are Ready.",
            "short",
            (
                Query(series("kube_deployment_spec_replicas", _DEPLOYED), "{{deployment}} wanted"),
                Query(series("kube_deployment_status_replicas_available", _DEPLOYED), "{{deployment}} available"),
            ),
        ),
        Panel(
            "Autoscalers",
            "An autoscaler at its maximum cannot add pods.",
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
            "The pod's termination message has the reason of a restart.",
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
            "Certificates of pods and of cert-manager. Pods use a renewed certificate for the next connection.",
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
    "Which workers are known and healthy, how long queues are, how much headroom is left, what autoscalers do.",
    (_POOLS, _QUEUES, _CLUSTER),
)
