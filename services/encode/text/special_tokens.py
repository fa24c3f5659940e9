"""The special tokens of all families: those each adds after its base vocabulary are in `services.common.families`.

Spec sections 2.4 and 9. A directory's own tokenizer may already have some of them; those keep their ids.
"""

from __future__ import annotations

from services.common.families import COSYVOICE2, FAMILIES
from services.common.families.family import END_OF_PROMPT

__all__ = ["ALL", "END_OF_PROMPT", "END_OF_TEXT", "MARKS", "PHONES"]

END_OF_TEXT = "<|endoftext|>"
MARKS: tuple[str, ...] = COSYVOICE2.text.special_tokens
"""Control tokens and sounds, which every family has."""
ALL: tuple[str, ...] = tuple(dict.fromkeys(token for family in FAMILIES for token in family.text.special_tokens))
PHONES: tuple[str, ...] = tuple(token for token in ALL if token not in MARKS and token.startswith("["))
"""The tokens for pronunciation in a text."""
