"""The workers of one service: one channel each, health-checked, leased per utterance."""

from services.common.pool.channel import dialler, open_channel
from services.common.pool.picker import LeastLoaded, Picker, RoundRobin
from services.common.pool.pool import Lease, Pool
from services.common.pool.worker import FailureReason, WorkerInfo, WorkerState

__all__ = [
    "FailureReason",
    "Lease",
    "LeastLoaded",
    "Picker",
    "Pool",
    "RoundRobin",
    "WorkerInfo",
    "WorkerState",
    "dialler",
    "open_channel",
]
