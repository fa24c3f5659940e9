"""The command `light-tts plan`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.console import err, examples, fail, out
from cli.simulator.command import fail_without, quiet

if TYPE_CHECKING:
    from cli.simulator.plan import Plan

SERVICES = Path(__file__).resolve().parents[2] / "services"
ESTIMATE = "NOT measured"
"""How a cost file's `measured` begins if its times are an estimate."""
DEFAULT_SECONDS = 8.0
DEFAULT_MEMORY = 80.0
"""GB of an H100."""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    commands = ("plan --streams 500 --voice-seconds 8 --gpu-price 2.5", "plan --from-prometheus http://prometheus:9090")
    app.command("plan", epilog=examples(*commands))(plan)


def plan(
    streams: Annotated[int | None, typer.Option(min=1, help="Sessions that play at once, at the peak.")] = None,
    voice_seconds: Annotated[
        float | None, typer.Option(min=1.0, max=60.0, help="Seconds of audio of a request. Default: 8.")
    ] = None,
    prompt_seconds: Annotated[float, typer.Option(min=0.5, max=30.0, help="Length of the voices' prompts.")] = 8.0,
    voices: Annotated[int, typer.Option(min=1, help="Voices in use at once; streams of one share its prompt.")] = 1,
    memory: Annotated[
        float, typer.Option(min=0.0, help="Memory of a decode worker's device, in GB; 0: it limits no streams.")
    ] = DEFAULT_MEMORY,
    slo: Annotated[float, typer.Option(min=0.01, help="Largest p95 of the first audio, in seconds.")] = 0.3,
    costs: Annotated[
        str,
        typer.Option(help="Costs of both services: a name in services/llm/costs and services/decode/costs."),
    ] = "hopper",
    llm_costs: Annotated[Path | None, typer.Option(help="Cost file of the llm, instead of --costs.")] = None,
    decode_costs: Annotated[Path | None, typer.Option(help="Cost file of decode, instead of --costs.")] = None,
    gpu_price: Annotated[float | None, typer.Option(min=0.0, help="Price of a GPU, or of a core, per hour.")] = None,
    sessions: Annotated[int, typer.Option(min=5, help="Least sessions of a simulated load; more are more exact.")] = 60,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulation.")] = 0,
    from_prometheus: Annotated[
        str,
        typer.Option(
            metavar="URL", help="Prometheus server: its peak, length of utterances and service times are the defaults."
        ),
    ] = "",
    span: Annotated[str, typer.Option("--range", help="With --from-prometheus: how far to look back.")] = "7d",
    selector: Annotated[
        str, typer.Option(help="With --from-prometheus: labels of the series, such as 'namespace=\"speech\"'.")
    ] = "",
) -> None:
    """Find how many workers a peak load needs, by simulated loads at the costs of a device.

    Prints workers, memory, the part of the chart's values.yaml and the price of an hour of audio.
    """
    quiet()
    try:
        from cli.simulator.plan import Need, make_plan
        from cli.simulator.prometheus import PrometheusError, measured, read_live
        from cli.simulator.scenario import ScenarioError
    except ModuleNotFoundError as error:
        fail_without(error)
    files = {
        service: given or SERVICES / service / "costs" / f"{costs}.json"
        for service, given in (("llm", llm_costs), ("decode", decode_costs))
    }
    if streams is None and not from_prometheus:
        fail("how many sessions play at once? give --streams, or --from-prometheus URL")
    with tempfile.TemporaryDirectory(prefix="light-tts-plan-") as folder:
        need = Need(
            streams or 1,
            voice_seconds or DEFAULT_SECONDS,
            slo,
            str(files["llm"]),
            str(files["decode"]),
            prompt_seconds,
            sessions,
            seed,
            voices=voices,
            memory=1e9 * memory,
        )
        try:
            if from_prometheus:
                live = read_live(from_prometheus, span, selector)
                need, note = measured(need, live, Path(folder), fixed_streams=streams, fixed_seconds=voice_seconds)
                out.print(f"{from_prometheus}, the last {span}: {note}", markup=False, soft_wrap=True)
            err.print("simulating loads; with the costs of a GPU this takes some minutes", markup=False)
            found = make_plan(need)
        except (ScenarioError, PrometheusError) as error:
            fail(str(error))
    if found is None:
        fail(f"one stream alone has its first audio later than --slo {slo:g} s; allow more, or use faster costs")
    out.print(text(found, gpu_price), markup=False, soft_wrap=True)


def text(found: Plan, gpu_price: float | None) -> str:
    """Return the plan as text."""
    from cli.simulator.plan import LLM_STREAMS, measured_on

    need = found.need
    most = "at least " if found.per_llm >= min(need.streams, LLM_STREAMS) else ""
    lines = [
        f"{need.streams} streams of {need.voice_seconds:g} s, p95 of the first audio within {need.first_audio:g} s",
        f"decode  {found.decode_workers} workers, one of them spare; one holds {found.per_decode:.0f} streams"
        f"{', limited by its memory' if found.per_decode >= need.fitting else ''}, "
        f"and needs {found.decode_bytes / 1e9:.0f} GB for {found.streams_per_decode} without eviction (CosyVoice2)",
        f"llm     {found.llm_workers} workers; one holds {most}{found.per_llm:.0f} streams, "
        f"and needs {found.llm_bytes / 1e9:.1f} GB for {found.streams_per_llm}",
    ]
    if gpu_price is not None:
        hour = found.price_per_audio_hour(gpu_price)
        lines.append(f"price   {hour:.4f} per hour of audio at the peak, with a device per worker")
    lines += ["", "values.yaml:", "", found.values().rstrip(), ""]
    confirm = "The loads were simulated; `light-tts bench` should confirm the plan."
    if need.costs_note:
        return "\n".join([*lines, f"Costs: {need.costs_note}.", confirm])
    sources = [measured_on(path) for path in (need.llm_costs, need.decode_costs)]
    lines += ["Costs:", f"  llm     {need.llm_costs}: {sources[0]}", f"  decode  {need.decode_costs}: {sources[1]}"]
    if any(source.startswith(ESTIMATE) for source in sources):
        lines.append("This is an ESTIMATE: its costs were not measured.")
    return "\n".join([*lines, confirm])
