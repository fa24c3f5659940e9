"""The command `light-tts bench`."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from cli.bench.apis import Api
from cli.bench.connection import ApiName, open_api
from cli.bench.generator import offer
from cli.bench.load import Load, TraceError, read_trace
from cli.bench.output import EXPLAINED, HEADER, PlotError, as_json, line, plot, require_plots, table
from cli.bench.prompts import SETS, Prompt, PromptError, read_prompts, with_voices
from cli.bench.report import Report, Target, report
from cli.bench.search import largest_held
from cli.client import Access, ClientError, check_text
from cli.console import err, examples, fail, out
from cli.say import MOST_SEED, check_out

RATES = "0.2,0.5,1"
SERVERS: dict[ApiName, str] = {"grpc": "127.0.0.1:50050", "riva": "127.0.0.1:50050", "openai": "http://127.0.0.1:8080"}


@dataclass(frozen=True)
class Outputs:
    """Files to write; None for none."""

    json: Path | None = None
    markdown: Path | None = None
    plot: Path | None = None

    def check(self) -> None:
        """Raise ClientError or PlotError if a file could not be written; the loads take minutes."""
        for path in filter(None, (self.json, self.markdown, self.plot)):
            check_out(path)
        if self.plot:
            require_plots()

    def write(self, reports: Sequence[Report], name: str) -> None:
        """Write the figures. Raises PlotError and OSError."""
        if self.json:
            self.json.write_text(as_json(reports), encoding="utf-8")
        if self.markdown:
            self.markdown.write_text(f"{table(reports)}\n{EXPLAINED}\n", encoding="utf-8")
        if self.plot:
            plot({name: reports}, self.plot)
        for path in (self.json, self.markdown, self.plot):
            if path:
                err.print(f"wrote {path}", markup=False)


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "bench",
        epilog=examples(
            "bench",
            "bench --rates 1,2,4 --seconds 60 --prompts mixed --plot load.png",
            "bench --streams 1,2,4,8,16 --api openai",
            "bench --rates 1 --find 0.8",
        ),
    )(bench)


def bench(
    rates: Annotated[
        str, typer.Option(help=f"Open loads: requests per second, each a load of its own. Default: {RATES}.")
    ] = "",
    streams: Annotated[str, typer.Option(help="Closed loads: requests under way at once, such as 1,2,4,8.")] = "",
    trace: Annotated[
        Path | None, typer.Option(help="An open load: a file with the time of a request, in seconds, on each line.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=1.0, help="Duration of each load.")] = 30.0,
    find: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            help="Search the largest open load, starting at the first of --rates, at which 95% of the first audio "
            "arrives within this many seconds, no request is refused and at most 1% of the streams have an underrun.",
        ),
    ] = None,
    prompts: Annotated[
        str,
        typer.Option(help=f"A set of texts ({', '.join(SETS)}), or a file with a text or JSON object on each line."),
    ] = "sentences",
    text: Annotated[str, typer.Option(help="One text instead of a set.")] = "",
    voices: Annotated[
        str, typer.Option("--voices", "--voice", help="Voices that speak each text, such as anna,hugo. Default: one.")
    ] = "",
    api: Annotated[
        ApiName, typer.Option(help="API of the server: the gateway's gRPC, OpenAI's HTTP or Riva's.")
    ] = "grpc",
    model: Annotated[str, typer.Option(help="Name of the model, for OpenAI's API.")] = "tts-1",
    seed: Annotated[
        int, typer.Option(min=0, max=MOST_SEED // 2, help="Seed of the arrival times and of the speech.")
    ] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    markdown_file: Annotated[Path | None, typer.Option("--markdown", help="Write a table to this file.")] = None,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", help="Draw the loads into this file (.png, .svg).")
    ] = None,
    server: Annotated[
        str, typer.Option(envvar="LIGHTTTS_SERVER", help="Address: host:port, or https://host:port for TLS.")
    ] = "",
    api_key: Annotated[str, typer.Option(envvar="LIGHTTTS_API_KEY", show_default=False, help="API key.")] = "",
) -> None:
    """Send loads to a running server and print what listeners would receive, one line per load.

    Every time counts from the instant at which a request was due. A load in
    which this program itself was late is marked as invalid.
    """
    try:
        chosen = with_voices(read_prompts(prompts), _list(voices))
        check_text("--text", text)
        check_text("--voices", voices)
        if text:
            chosen = with_voices([replace(chosen[0], text=text)], _list(voices))
        outputs = Outputs(json_file, markdown_file, plot_file)
        outputs.check()
        if not math.isfinite(seconds):
            fail("--seconds must be a finite number")
        base = Load(chosen, seconds, seed=seed)
        loads = _loads(base, rates, streams, trace)
        if find is not None and not loads[0].rate:
            fail("--find searches open loads; give the first one as --rates")
        access = replace(Access.of(server or SERVERS[api]), key=api_key)
        reports = asyncio.run(_run(api, access, model, loads, find))
        outputs.write(reports, api)
    except (ClientError, PromptError, TraceError, PlotError, OSError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _list(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def _loads(base: Load, rates: str, streams: str, trace: Path | None) -> list[Load]:
    if sum(map(bool, (rates, streams, trace))) > 1:
        fail("--rates, --streams and --trace exclude each other; give one of them")
    if trace is not None:
        return [replace(base, times=read_trace(trace))]
    if streams:
        return [replace(base, streams=int(number)) for number in _numbers("--streams", streams, whole=True)]
    return [replace(base, rate=rate) for rate in _numbers("--rates", rates or RATES)]


def _numbers(option: str, text: str, whole: bool = False) -> list[float]:
    try:
        numbers = [int(one) if whole else float(one) for one in text.split(",")]
    except ValueError as error:
        fail(f"{option} must be numbers separated by commas, such as {'1,2,4' if whole else RATES} ({error})")
    if not all(0 < number < float("inf") for number in numbers):
        fail(f"{option} must be above zero")
    return numbers


async def warm_up(api: Api, prompts: Sequence[Prompt]) -> None:
    """Speak one text with each voice, so that the server has the voices. Raises ClientError."""
    first = {one.voice: one for one in reversed(prompts)}
    run = await offer(api, Load(tuple(first.values()), seconds=0.0, streams=len(first)))
    for error in filter(None, (one.error for one in run.outcomes)):
        raise error


async def _run(api: ApiName, access: Access, model: str, loads: Sequence[Load], find: float | None) -> list[Report]:
    reports: list[Report] = []
    async with open_api(api, access, model) as server:
        await warm_up(server, loads[0].prompts)

        async def measure(load: Load) -> Report:
            reports.append(one := report(await offer(server, load)))
            out.print(line(one), soft_wrap=True, markup=False)
            return one

        out.print(HEADER, soft_wrap=True)
        if find is None:
            for load in loads:
                await measure(load)
        else:
            best = await largest_held(lambda rate: measure(replace(loads[0], rate=rate)), Target(find), loads[0].rate)
            out.print(f"held: {best.rate:.2f} per second, {best.offered:.1f} streams" if best else "no load was held")
    return reports
