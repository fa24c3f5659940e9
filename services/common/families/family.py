"""What distinguishes one family of checkpoints from another: facts only, chosen once when a directory is opened.

The services read these facts instead of comparing names of families. A family that needs other arithmetic names a flow
or a vocoder of its own, which decode maps to networks (`services/decode/flow`, `services/decode/vocoder`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

END_OF_PROMPT = "<|endofprompt|>"
"""The token that ends an instruction, or what precedes a text."""

FlowKind = Literal["conformer-unet", "convolution-dit"]
VocoderKind = Literal["hift", "causal-hift"]


@dataclass(frozen=True)
class SpeechIds:
    """The ids after the V speech ids, as offsets from V, and the matrices with rows for them (spec 4.3, 9)."""

    rows: int
    """Rows of the speech embedding and of the output layer after those of the speech ids."""
    eos: int
    fill: int
    prompt_rows: tuple[int, int] | None
    """Offsets of sos and task_id in the speech embedding; None if `llm_embedding`, a matrix of two rows, has them."""
    output_bias: bool
    """Whether the output layer has a bias."""
    silent: frozenset[int] = frozenset()
    """Speech ids of silence."""
    longest_silence: int = 5
    """Consecutive silent ids that are spoken; further ones are dropped (spec section 4.7)."""


@dataclass(frozen=True)
class TextRules:
    """What the llm receives as text (spec sections 2, 3.6 and 9)."""

    special_tokens: tuple[str, ...]
    """Added after the base vocabulary and `<|endoftext|>`, in the order that fixes their ids."""
    prompts_end: bool
    """Whether transcripts, instructions and texts without either follow a preamble that END_OF_PROMPT ends.

    Such a transcript is not normalised. In interleaved order the preamble directly follows sos.
    """
    assistant: str = ""
    """The preamble without its end: the first words of every prompt."""

    def transcript(self, words: str) -> str:
        """The prompt text of a transcript: itself, or preceded by the preamble unless it has one."""
        return words if not self.prompts_end or END_OF_PROMPT in words else self._preamble + words

    def instruction(self, words: str) -> str:
        """What precedes a text spoken with an instruction or, if that is empty, without the prompt's transcript."""
        if END_OF_PROMPT in words:
            return words
        if not words:
            return self._preamble if self.prompts_end else ""
        return f"{self.assistant} {words}".lstrip() + END_OF_PROMPT

    @property
    def _preamble(self) -> str:
        return self.assistant + END_OF_PROMPT


@dataclass(frozen=True)
class ModelFamily:
    """One family. `name` is also the name of its YAML file."""

    name: str
    repository: str
    """Where `light-tts fetch` finds the official checkpoint (Hugging Face)."""
    speech_tokenizer: str
    """File of the graph that extracts speech tokens."""
    mel_fmax: float | None
    """Upper frequency of the prompt mel in Hz if the YAML states none; None is half of the sampling rate."""
    speech: SpeechIds
    text: TextRules
    flow: FlowKind
    vocoder: VocoderKind
    llm_variants: tuple[str, ...] = ()
    """Further weights of the llm that a directory may have: `rl` is the file `llm.rl.pt`."""
    unused: tuple[str, ...] = ()
    """Published files, by pattern, that light-tts does not read: exports for other runtimes, and training data."""

    @property
    def yaml(self) -> str:
        return f"{self.name}.yaml"

    def llm_file(self, variant: str = "") -> str:
        """The file of the llm's weights, or of a variant of them."""
        return f"llm.{variant}.pt" if variant else "llm.pt"

    @property
    def required(self) -> tuple[str, ...]:
        """The files that the services need."""
        graphs = ("campplus.onnx", self.speech_tokenizer)
        return ("llm.pt", "flow.pt", "hift.pt", *graphs, "CosyVoice-BlankEN/config.json")
