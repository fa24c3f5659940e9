"""Measures how much text one thread reads: prose, Markdown and numbers, in English and Chinese.

    python -m benchmarks.text [--slices 60] [--profile MIX]

`clean`: what cannot be spoken left out; `words`: and numbers and symbols in words; `pieces`: all of a stream, with its
sentences, their lengths and token ids, as the encode service works, in fragments of 400 characters. Numbers, dates and
sums differ from sentence to sentence, so caches do not hold whole sentences. The best of many short measures counts,
because other work on the machine disturbs the others.
"""

from __future__ import annotations

import argparse
import cProfile
import itertools
import os
import pstats
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from services.common.checkpoint.model_dir import open_model_dir
from services.encode.text.cleaning import clean
from services.encode.text.frontend import TextFrontend
from services.encode.text.normalise import Normaliser
from services.encode.text.text_encoder import SentenceEncoder

MODEL = Path(__file__).parents[1] / "tests" / "data" / "cosyvoice2-mini"
"""Its tokenizer is of the official form, with a small vocabulary."""
FRAGMENT = 400
SLICE = 100
"""Sentences of one measurement."""

PROSE = (
    "It was a bright morning, and the streets were still empty when she left the house.",
    "I can help you with that, but first I need to know a little more about your plans.",
    "The museum is closed on Mondays; on other days it opens in the morning and closes late.",
    "Thanks for waiting! Your request has been sent to the team, and someone will call you back.",
    "He asked whether we had seen the letter that his brother sent from the coast last week.",
    "If the light keeps blinking, unplug the device, wait for a moment, and plug it in again.",
    "Dr. Smith will see you now, and the nurse will explain how to take the medicine.",
    "No, that's not what I meant: the second option is cheaper, but it takes much longer.",
)
NUMBERS = (
    "Your appointment is on March {day}, {year} at {hour}:{minute:02d} PM in room {room}.",
    "The total comes to ${sum:,}.{minute:02d}, which is {percent}% more than in {year}.",
    "Please call {area}-555-{four:04d} and give the code {code:06d}.",
    "The train covers {km} km in {hour} hours at {speed} km/h.",
    "Order #{code} has {day} items and weighs {percent}.5 kg.",
    "About {sum:,} people live there, and {day} of {km} schools are closed.",
)
MARKDOWN = (
    "**Step {day}:** open the *Settings* page and select `Network`.",
    "- [The guide](https://example.com/docs/{code}) explains the details 😀",
    "| Plan | Price |\n|---|---|\n| Basic | ${percent}.99 |",
    "## What to bring\n\n- a passport\n- two photographs",
)
CHINESE = (
    "今天天气真好，我们一起去公园吧，听说那里的花都开了。",
    "请稍等一下，我马上为您查询，查到之后会给您回电话。",
    "如果指示灯一直在闪，请先拔掉电源，等一会儿再插上。",
)
CHINESE_NUMBERS = (
    "您的预约时间是{year}年3月{day}日下午{hour}:{minute:02d}，房间号{room}。",
    "总共{sum}元，比去年增加了{percent}%，全程{km}公里。",
)
MIXES: dict[str, tuple[tuple[tuple[str, ...], int], ...]] = {
    "English prose": ((PROSE, 1),),
    "English assistant (70 % prose, 20 % with numbers, 10 % Markdown)": ((PROSE, 7), (NUMBERS, 2), (MARKDOWN, 1)),
    "English sentences with numbers": ((NUMBERS, 1),),
    "Chinese prose": ((CHINESE, 1),),
    "Chinese assistant (80 % prose, 20 % with numbers)": ((CHINESE, 4), (CHINESE_NUMBERS, 1)),
    "Chinese sentences with numbers": ((CHINESE_NUMBERS, 1),),
}


def sentences(mix: tuple[tuple[tuple[str, ...], int], ...], seed: int) -> Iterator[str]:
    """Yield sentences of a mix without an end."""
    chance = random.Random(seed)
    kinds = [kind for kind, weight in mix for _ in range(weight)]
    while True:
        yield chance.choice(chance.choice(kinds)).format(
            day=chance.randint(1, 28), year=chance.randint(1950, 2030), hour=chance.randint(1, 12),
            minute=chance.randint(0, 59), room=chance.randint(100, 999), sum=chance.randint(1000, 99999),
            percent=chance.randint(1, 99), area=chance.randint(201, 989), four=chance.randint(0, 9999),
            code=chance.randint(100000, 999999), km=chance.randint(2, 900), speed=chance.randint(20, 300),
        )  # fmt: skip


def joined(text: list[str], blank: str) -> str:
    """Join sentences by `blank`, and blocks of Markdown by blank lines, as a model writes them."""
    block = [sentence[0] in "*#|-" for sentence in text]
    following = itertools.chain(block[1:], (False,))
    gaps = ("\n\n" if one or other else blank for one, other in zip(block, following, strict=True))
    return "".join(sentence + gap for sentence, gap in zip(text, gaps, strict=True))


def rate(text: list[str], work: Callable[[list[str]], object]) -> float:
    """Return megabytes (10^6 bytes of UTF-8) a second of processor time, of the best slice."""
    work(text[:SLICE])  # patterns and tables are made at the first use
    best = 0.0
    for start in range(SLICE, len(text) - SLICE + 1, SLICE):
        part = text[start : start + SLICE]
        started = time.process_time()
        work(part)
        seconds = time.process_time() - started
        best = max(best, sum(len(sentence.encode()) for sentence in part) / seconds / 1e6)
    return best


def measure(name: str, frontend: TextFrontend, slices: int) -> None:
    chinese = name.startswith("Chinese")
    language = "zh" if chinese else "en"

    def words(text: list[str]) -> None:
        for sentence in text:
            frontend.normaliser(clean(sentence), language)

    def pieces(text: list[str]) -> None:
        whole = joined(text, "" if chinese else " ")
        encoder = SentenceEncoder(frontend, len(whole) + 1)
        for start in range(0, len(whole), FRAGMENT):
            for _ in encoder.push(whole[start : start + FRAGMENT]):
                pass
        for _ in encoder.finish():
            pass

    text = list(itertools.islice(sentences(MIXES[name], 1), (slices + 1) * SLICE))
    works: tuple[Callable[[list[str]], object], ...] = (lambda part: [clean(one) for one in part], words, pieces)
    print(f"{name:<66} " + " ".join(f"{rate(text, work):8.2f}" for work in works))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.text", description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=60, help="measurements of each mix")
    parser.add_argument("--profile", metavar="MIX", help="print the costly functions of the mix that begins so")
    options = parser.parse_args()
    frontend = TextFrontend(open_model_dir(MODEL), Normaliser("auto"))
    if options.profile:
        name = next(mix for mix in MIXES if mix.startswith(options.profile))
        with cProfile.Profile() as profile:
            measure(name, frontend, options.slices)
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
        return
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"one thread, processor time; load averages before: {load}; Chinese read by {frontend.normaliser.name}")
    print(f"{'MB/s (10^6 bytes of UTF-8)':<66} {'clean':>8} {'words':>8} {'pieces':>8}")
    for name in MIXES:
        measure(name, frontend, options.slices)


if __name__ == "__main__":
    main()
