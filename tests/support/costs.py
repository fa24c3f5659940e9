"""Costs of a slow device for simulated backends, so that small loads of a test fill its workers."""

from __future__ import annotations

from pathlib import Path

SERVICES = Path(__file__).parents[2] / "services"
GUIDED = {
    f"{service}_cost_file": str(SERVICES / service / "costs" / "guided-cpu.json") for service in ("llm", "decode")
}
"""Fields of a simulation's scenario."""
