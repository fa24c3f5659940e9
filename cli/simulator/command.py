"""The command `light-tts simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import structlog
import typer

from cli.bench.output import HEADER, line
from cli.console import examples, fail, out

if TYPE_CHECKING:
    from cli.simulator.simulation import Result

PACKAGES = ("torch", "greenlet")


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("simulate", epilog=examples("simulate scenario.yaml", "simulate scenario.yaml --rates 10,20,40"))(
        simulate
    )


def simulate(
    scenario: Annotated[
        Path,
        typer.Argument(help="A YAML or JSON file; docs/benchmarks.md has an example.", exists=True, dir_okay=False),
    ],
    rates: Annotated[str, typer.Option(help="Sessions per second, each a load of its own. Default: the file's.")] = "",
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the simulation. Default: the file's.")] = None,
) -> None:
    """Simulate the services under load: their own code, with a clock that is advanced instead of waited for.

    It needs no server. Prints what listeners would receive, one line per load.
    """
    quiet()
    try:
        from cli.simulator.scenario import ScenarioError, read_scenario
        from cli.simulator.simulation import simulate as run
    except ModuleNotFoundError as error:
        fail_without(error)
    changed = {} if seed is None else {"seed": seed}
    try:
        loads = [{"rate": float(one)} for one in rates.split(",")] if rates else [{}]
    except ValueError:
        fail(f"--rates {rates} must be numbers separated by commas, such as 10,20")
    out.print(HEADER, soft_wrap=True)
    for load in loads:
        try:
            result = run(read_scenario(scenario, **changed, **load))
        except ScenarioError as error:
            fail(str(error))
        out.print(line(result.report), soft_wrap=True, markup=False)
        out.print(summary(result), soft_wrap=True, markup=False)


def fail_without(error: ModuleNotFoundError) -> NoReturn:
    """End the command if one of the simulator's packages is missing; raise the error of any other module again."""
    if error.name not in PACKAGES:
        raise error
    fail(f"the simulator needs {' and '.join(PACKAGES)}: pip install 'light-tts[simulator]' ({error})")


def quiet() -> None:
    """Keep the log of the simulated services off the terminal: it would have lines for every worker."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))


def summary(result: Result) -> str:
    """Return what `cli.bench` has no column for."""
    refused = ", ".join(f"{count} by {stage}" for stage, count in sorted(result.refusals.items()))
    return (
        f"        at most {result.most_streams} sessions at once, {result.cut} cut, {result.moves} moves of utterances"
        f"{f', refused: {refused}' if refused else ''}; decode workers busy {result.decode_busy:.0%}; "
        f"{result.seconds:.0f} s simulated in {result.took:.0f} s"
    )
