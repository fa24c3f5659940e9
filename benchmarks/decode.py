"""Measures the cost of decoding on one thread: (a) by method of streaming, (b) by batch size.

    python -m benchmarks.decode [--model DIR | --family cosyvoice3] [--device cuda:0] [--seconds 10]
                                [--prompt-seconds 3] [--repeats 2] [--euler-steps 1] [--count]

Without --model it uses the 0.5B layout with random weights. Tokens and voice are random: time does not depend on their
values. The work includes the prompt, the speech does not. Seconds are processor time on a CPU, where single operations
take turns with the services' joined ones in (b). On a GPU they are wall-clock time, and the estimator computes in
bfloat16, with recorded graphs if `--graphs` is given. The methods alternate, `--repeats` times, and the fastest time of
every hop counts, so that other programs hardly affect the ratios. `--costs` writes
the fitted costs for the simulated backend.

`--euler-steps 1` computes one of the flow's equal steps and counts its cost ten times, in a fifth of the time.
`--count` counts the operations of matrix products, convolutions and attention instead of seconds: what is computed
twice shows in these figures whatever else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.decode_costs import Measured, errors, fit
from benchmarks.floor import Clock, clock_of, flop_counter, matmul_rate, memory_bandwidth, weight_bytes
from benchmarks.official.checkpoint import FAMILIES, write_checkpoint
from services.common.checkpoint.model_dir import open_model_dir
from services.common.families import family_named
from services.decode.engine.backends import Hop
from services.decode.engine.hops import HopPolicy
from services.decode.engine.state import StreamSpec
from services.decode.engine.torch_backend import Precision, TorchBackend, TorchState
from services.decode.estimators.compiled import use_programs
from services.decode.estimators.cpu_step import use_cpu_step
from services.decode.flow.estimator import EstimatorNetwork
from services.decode.flow.forward_pass import Pass
from services.decode.flow.programs import CudaGraphs
from services.decode.flow.solver import Start

CHUNK = HopPolicy().sizes[0]
TOKEN_RATE = 25

HopTokens = Callable[[int], int]
"""Maps the number of a stream's hop to its length in tokens."""


@dataclass
class Method:
    """One method to decode an utterance, hop by hop."""

    name: str
    hops: list[Measured]
    lost_state: bool = False
    """Frames were recomputed although the state should have been kept."""

    @property
    def seconds(self) -> list[float]:
        return [hop.seconds for hop in self.hops]

    @property
    def total(self) -> float:
        return sum(self.seconds)

    def fastest(self, other: Method) -> Method:
        """Return the faster measurement of each hop."""
        hops = [min(pair, key=lambda hop: hop.seconds) for pair in zip(self.hops, other.hops, strict=True)]
        return Method(self.name, hops, self.lost_state or other.lost_state)


class Meter:
    """A backend and what its hops cost: `clock` over a hop, the solver's part of it `scale` times."""

    def __init__(self, backend: TorchBackend, clock: Clock, scale: float) -> None:
        self.backend, self.scale, self._clock = backend, scale, clock
        self._more = 0.0
        solve = backend.flow.solver.solve

        def metered(start: Start, open_pass: Callable[[int], Pass], on_step: Callable[[], None]) -> torch.Tensor:
            began = self._clock()
            mel = solve(start, open_pass, on_step)
            self._more += (scale - 1) * (self._clock() - began)
            return mel

        backend.flow.solver.solve = metered  # type: ignore[method-assign]

    def cost(self, hops: Sequence[Hop]) -> float:
        """Run one batch and return its cost. Raises the error of a hop."""
        began, self._more = self._clock(), 0.0
        results = self.backend.run(hops, beat=lambda: None)
        cost = self._clock() - began + self._more
        for audio in results:
            if isinstance(audio, Exception):
                raise audio
        return cost

    def operations(self, hops: Sequence[Hop]) -> float:
        """Run one batch and return its operations."""
        clock = self._clock
        with flop_counter() as counter:
            self._clock = counter.get_total_flops
            try:
                return self.cost(hops)
            finally:
                self._clock = clock


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    counter = flop_counter() if options.count else nullcontext()
    with model_directory(options.model, options.family) as directory, counter as counting:
        precision = Precision() if options.device.type == "cpu" else Precision(torch.bfloat16, torch.bfloat16)
        model = open_model_dir(directory)
        steps = min(options.euler_steps or model.flow.solver.steps, model.flow.solver.steps)
        scale = model.flow.solver.steps / steps
        few = replace(model, flow=replace(model.flow, solver=replace(model.flow.solver, steps=steps)))
        make = partial(TorchBackend, few, options.device, precision)
        cached = make(state_bytes=options.state_bytes)
        cached.warm_up()
        if options.graphs:
            use_programs(cached.flow, max(options.batches), CudaGraphs(options.device))
        context = cached.vocoder.context
        name = options.model.name if options.model else f"0.5B layout of {options.family}"
        print(f"{name}: vocoder context {context.left} frames left, {context.right} right")
        recomputing = make(state_bytes=0)
        recomputing.vocoder.context = context
        single = None
        if options.device.type == "cpu" and options.cpu_step == "joined":
            single = make(state_bytes=options.state_bytes)
            single.vocoder.context = context
            for backend in (cached, recomputing):
                use_cpu_step(backend.flow)
        clock = clock_of(options.device) if counting is None else lambda: counting.get_total_flops() / 1e9
        kept, lost = (Meter(backend, clock, scale) for backend in (cached, recomputing))
        lengths = int(options.seconds * TOKEN_RATE), int(options.prompt_seconds * TOKEN_RATE)
        methods = measure_methods(kept, lost, *lengths, options.repeats)
        print_methods(methods, options.seconds, "s" if counting is None else "GFLOP")
        if counting is not None:
            return
        other = None if single is None else Meter(single, clock, scale)
        batches = measure_batches(kept, options.batches, options.repeats, other)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB; {load_average()}")
    measured = [*(hop for method in methods.values() for hop in method.hops), *batches]
    costs = fit(measured, context.right)
    wrong = np.abs(errors(costs, measured))
    print(f"{costs}: error {np.median(wrong):.0%} in the median of {len(measured)} batches, {wrong.max():.0%} at most")
    if options.costs:
        stated = {"measured": f"{name}, one thread of {machine(options.device)}, {date.today()}, {load_average()}"}
        options.costs.write_text(json.dumps(stated | asdict(costs), indent=2) + "\n", encoding="utf-8")
        print(f"wrote {options.costs}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="model directory; default: the 0.5B layout, random weights")
    parser.add_argument("--family", choices=FAMILIES, default=FAMILIES[0], help="family of the 0.5B layout")
    parser.add_argument("--device", type=torch.device, default="cpu", help="cpu, cuda:0 ...")
    parser.add_argument("--graphs", action="store_true", help="record CUDA graphs first, as workers do")
    parser.add_argument(
        "--cpu-step",
        choices=("joined", "plain"),
        default="joined",
        help="see LIGHTTTS_DECODE_CPU_STEP",
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="speech to decode")
    parser.add_argument("--prompt-seconds", type=float, default=3.0, help="length of the voice's prompt")
    parser.add_argument("--repeats", type=int, default=2, help="measurements of everything; the fastest counts")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 2, 4, 8, 16], help="batch sizes to measure")
    parser.add_argument(
        "--state-bytes", type=int, default=6 * 2**30, help="memory for kept states; too little causes recomputation"
    )
    parser.add_argument("--euler-steps", type=int, default=0, help="compute this many steps, count them as all")
    parser.add_argument("--count", action="store_true", help="count operations (GFLOP) instead of seconds")
    parser.add_argument("--costs", type=Path, help="write a cost file for the simulated backend here")
    options = parser.parse_args()
    if options.graphs and (options.euler_steps or options.count):
        parser.error("--euler-steps and --count measure the steps outside CUDA graphs; leave --graphs out")
    return options


def machine(device: torch.device) -> str:
    """The name of the processor that decodes."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if sys.platform == "linux" else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def load_average() -> str:
    return f"load average {' '.join(f'{load:.1f}' for load in os.getloadavg())} on {os.cpu_count()} cores"


@contextmanager
def model_directory(given: Path | None, family: str = FAMILIES[0]) -> Iterator[Path]:
    """Yield the given directory, or a temporary one with random weights in official format."""
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="decode-0.5b-") as temporary:
        directory = Path(temporary) / "random"
        write_checkpoint(directory, parts=("flow", "hift"), family=family)
        for graph in ("campplus.onnx", family_named(family).speech_tokenizer):  # must exist, but are not read
            (directory / graph).touch()
        yield directory


def measure_methods(cached: Meter, recomputing: Meter, count: int, prompt: int, repeats: int) -> dict[str, Method]:
    """(a) Decode one utterance of `count` tokens with every method."""
    rng = np.random.default_rng(0)
    tokens = [int(token) for token in rng.integers(0, cached.backend.format.vocab_size, count)]
    spec = made_up_voice(cached.backend, prompt, rng)
    known = replace(spec, voice="known")
    decode("", cached, known, tokens[:CHUNK], steady)
    plans: list[tuple[str, Meter, StreamSpec, HopTokens]] = [
        ("one shot, chunk-causal", recomputing, spec, lambda hop: count),
        ("cached, hops of 25, new voice", cached, spec, steady),
        ("cached, hops of 25, known voice", cached, known, steady),
        ("cached, growing hops", cached, spec, growing),
        ("recomputed, hops of 25", recomputing, spec, steady),
        ("recomputed, growing hops", recomputing, spec, growing),
    ]
    methods: dict[str, Method] = {}
    for number in range(repeats):
        for name, meter, voice, hop_tokens in plans:
            method = decode(name, meter, voice, tokens, hop_tokens)
            methods[name] = method.fastest(methods.get(name, method))
            print(f"round {number + 1} of {repeats}: {name} {method.total:.1f}", file=sys.stderr, flush=True)
    return methods


def steady(hop: int) -> int:
    return CHUNK


def growing(hop: int) -> int:
    return CHUNK * min(4, 1 << hop)


def made_up_voice(backend: TorchBackend, tokens: int, rng: np.random.Generator) -> StreamSpec:
    config = backend.flow.config
    return StreamSpec(
        prompt_tokens=rng.integers(0, config.vocab_size, tokens).astype(np.int32),
        prompt_mel=(2 * rng.standard_normal((2 * tokens, config.output_size)) - 5).astype(np.float32),
        embedding=rng.standard_normal(config.speaker_dim).astype(np.float32),
    )


def decode(name: str, meter: Meter, spec: StreamSpec, tokens: list[int], hop_tokens: HopTokens) -> Method:
    """Decode one utterance hop by hop; the first hop includes the prompt."""
    backend = meter.backend
    state, recomputed = backend.open(spec), backend.counts().recomputed_frames
    prompt, plan = state.flow.prompt, spec.plan
    end, method = prompt, Method(name, [])
    while end < prompt + len(tokens):
        end = min(prompt + len(tokens), plan.boundary_at_or_after(end + hop_tokens(len(method.hops))))
        method.hops.append(run(meter, [Hop(state, tokens, end, final=True)]))
    method.lost_state = backend.flow.pool.blocks > 0 and backend.counts().recomputed_frames > recomputed
    return method


def run(meter: Meter, hops: Sequence[Hop]) -> Measured:
    """Run one batch and measure it."""
    backend, ratio = meter.backend, meter.backend.format.frames_per_token
    frames = [ratio * (hop.end - backend.cached_tokens(hop.state)) for hop in hops]
    pairs = sum(new * ratio * hop.end for new, hop in zip(frames, hops, strict=True))
    return Measured(len(hops), sum(frames), pairs, meter.cost(hops))


def print_methods(methods: dict[str, Method], seconds: float, unit: str) -> None:
    for method in methods.values():
        if method.lost_state:
            print(
                f"{method.name}: states did not fit in memory, so the figure includes recomputation; see --state-bytes"
            )
        each = " ".join(f"{hop:.2f}" for hop in method.seconds)
        print(f"{method.name:32} {method.total:7.2f} {unit}, {method.total / seconds:5.2f} per s;  per hop {each}")
    cached, known = methods["cached, hops of 25, new voice"], methods["cached, hops of 25, known voice"]
    grown, once = methods["cached, growing hops"], methods["one shot, chunk-causal"]
    hops = cached.seconds
    rows = (
        ("cached / recomputed, hops of 25", cached.total / methods["recomputed, hops of 25"].total, 0.25),
        ("cached / recomputed, growing hops", grown.total / methods["recomputed, growing hops"].total, 0.65),
        ("cached / one shot, chunk-causal", cached.total / once.total, 1.3),
        ("last hop / second hop, cached", hops[-1] / hops[1] if len(hops) > 1 else 1.0, 1.5),
        ("first hop, known / new voice", known.seconds[0] / hops[0], 0.65),
    )
    for name, ratio, wanted in rows:
        print(f"{name:36} {ratio:.3f}  (target: at most {wanted}){'' if ratio <= wanted else '  MISSED'}")
    print(load_average(), flush=True)


def measure_batches(meter: Meter, sizes: Sequence[int], repeats: int, single: Meter | None = None) -> list[Measured]:
    """(b) Decode the same chunk of a known voice for several streams at once, and compare with the machine's floor.

    `single`, if given, is a backend with single operations: it takes turns with the first one, to compare.
    """
    device, clock = meter.backend.device, clock_of(meter.backend.device)
    rate = matmul_rate(device, torch.float32 if device.type == "cpu" else torch.bfloat16, clock)
    bandwidth = memory_bandwidth(device, clock)
    flops = meter.operations(second_hops(meter, 1))
    weights = hop_weight_bytes(meter.backend, meter.scale)
    print(f"one hop of 25 tokens: {flops / 1e9:.0f} GFLOP; one batch reads {weights / 1e9:.2f} GB of weights")
    print(f"{device}: {rate / 1e9:.0f} GFLOP/s in matrix products, {bandwidth / 1e9:.0f} GB/s of memory")
    fastest: list[Measured] = []
    for size in sizes:
        turns = [[run(one, second_hops(one, size)) for one in (meter, single) if one] for _ in range(repeats)]
        one, *other = (min(batches, key=lambda batch: batch.seconds) for batches in zip(*turns, strict=True))
        fastest.append(one)
        each, alone = one.seconds / size, fastest[0].seconds / fastest[0].streams
        floor = max(flops / rate, weights / bandwidth / size)
        gain = f"; {other[0].seconds / one.seconds:.2f} × as fast as single operations" if other else ""
        print(
            f"batch {size:3}: {one.seconds:7.3f} s, {each:.3f} s per stream ({each / alone:.2f} × batch {sizes[0]}, "
            f"{each / floor:.1f} × floor {floor:.3f}){gain}",
            flush=True,
        )
    return fastest


def second_hops(meter: Meter, count: int) -> list[Hop]:
    """Return the second hops of `count` streams of one voice, whose first chunk is decoded."""
    rng, backend = np.random.default_rng(0), meter.backend
    tokens = [int(token) for token in rng.integers(0, backend.format.vocab_size, 2 * CHUNK)]
    spec = replace(made_up_voice(backend, CHUNK + 3, rng), voice="known, one chunk")
    if not backend.prompt_tokens(spec.voice, spec.plan):
        decode("", meter, spec, tokens, steady)
    states: list[TorchState] = [backend.open(spec) for _ in range(count)]
    return [Hop(state, tokens, 2 * CHUNK, final=False) for state in states]


def hop_weight_bytes(backend: TorchBackend, scale: float) -> float:
    """Return the bytes of weights that one batch reads: the estimator's at every Euler step, all others once."""
    flow, vocoder = backend.flow, backend.vocoder
    once = weight_bytes(flow.front, vocoder.generator, vocoder.pitch, vocoder.source)
    return once + scale * flow.solver.steps * (weight_bytes(flow.estimator) - time_weight_bytes(flow.estimator))


def time_weight_bytes(network: EstimatorNetwork) -> int:
    """Return the bytes of weights that give the time terms: computed once at the start, and read by no hop."""
    used: list[torch.nn.Module] = []
    hooks = [
        module.register_forward_pre_hook(lambda module, _: used.append(module))
        for module in network.modules()
        if not list(module.children())
    ]
    with torch.inference_mode():
        network.time_terms(torch.zeros(1, device=next(network.parameters()).device))
    for hook in hooks:
        hook.remove()
    return weight_bytes(*used)


if __name__ == "__main__":
    main()
