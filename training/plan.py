"""How much to do: the sizes of the training set and the steps of each stage."""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Round:
    """Hours of speech that exist when the training of the round begins, and its share of all training steps."""

    hours: float
    effort: float


@dataclass(frozen=True)
class Plan:
    """The work of a run. Steps are totals of the last round; a stage goes on from its checkpoint to the next total."""

    sentences: int = 15000
    rounds: tuple[Round, ...] = (Round(0.6, 0.15), Round(2.0, 0.4), Round(5.0, 1.0))
    seed: int = 1
    shard: int = 25
    """Utterances of a shard."""
    held_back: int = 40
    """First utterances of the set, which no stage trains on: tokenizer and language model are measured on them."""
    steps: dict[str, int] = field(
        default_factory=lambda: {
            "tokenizer": 4000,
            "speaker": 1500,
            "flow": 10000,
            "distil": 1500,
            "vocoder": 9000,
            "lm": 10000,
        }
    )
    batch_share: float = 1.0
    """Factor of the batch sizes."""
    rate_share: float = 1.0
    """Factor of the learning rates."""
    minutes: float | None = None
    """Most minutes that each stage trains, in this run."""
    workers: int = 0
    """Processes, in addition to each stage's own, that make its batches."""
    records: bool = True
    """On a GPU, repeat steps from a recording (`recorded.py`)."""
    check_words: bool = False
    """Keep only utterances that the recogniser understands; costs about a third of the teacher's time."""
    report_sentences: int = 25

    def upto(self, stage: str, effort: float) -> int:
        """The steps that a stage has at the end of a round with this effort."""
        return max(1, round(self.steps[stage] * effort))


FULL = Plan()
QUICK = replace(
    FULL,
    sentences=60,
    rounds=(Round(0.012, 1.0),),
    shard=10,
    held_back=4,
    steps={"tokenizer": 8, "speaker": 8, "flow": 4, "distil": 3, "vocoder": 4, "lm": 4},
    batch_share=0.3,
    report_sentences=2,
)
"""Every stage once, in about three minutes: it shows that the recipe runs and says nothing about quality."""
