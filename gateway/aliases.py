"""Names of voices and models that clients of other products send, and the names here that they mean."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass

FOREIGN_VOICES = (
    # OpenAI's, built into its clients and those of compatible servers
    "alloy=,ash=,ballad=,cedar=,coral=,echo=,fable=,marin=,nova=,onyx=,sage=,shimmer=,verse=,"
    # NVIDIA's: defaults of the plugins of LiveKit Agents and Pipecat, and of Riva's older images
    "Magpie-*=,English-US*=,Chatterbox-*=,"
    # ElevenLabs': the ready-made voices, among them the defaults of its own client and of LiveKit's plugin
    "21m00Tcm4TlvDq8ikWAM=,9BWtsMINqrJLrRacOk9x=,CwhRBWXzGAHq8TQ4Fs17=,EXAVITQu4vr4xnSDxMaL=,FGY2WhTYpPnrIDTdsKH5=,"
    "IKne3meq5aSn9XLyUdCD=,JBFqnCBsd6RMkjVDRZzb=,N2lVS1w4EtoT3dr4eOWO=,SAz9YHcvj6GT2YYXdXww=,TX3LPaxmHKxFdv7VOQHJ=,"
    "Xb7hH8MSUJpSbSDYk0k2=,XrExE9yKIg1WjnnlVkGX=,bIHbv24MWmeRgasZH58o=,cgSgspJ2msm6clMCkdW9=,cjVigY5qzO86Huf0OWal=,"
    "hpp4J3VqNfWAUOO0d1Us=,iP95p4xoKVk53GoZ742B=,nPczCjzI2devNBz1zQrb=,onwK4e9ZLuTAKqWW03F9=,pFZP5JQG7iQjIQuC4Bku=,"
    "pNInz6obpgDQGcFmaJgB=,pqHfZKP75CvOlQylNhV4="
)
FOREIGN_MODELS = (
    "tts-1=,tts-1-hd=,gpt-4o-mini-tts=,tts-1-*=,gpt-*-tts=,gpt-*-tts-*=,gpt-audio*=,magpie-tts-*=,eleven_*="
)
_WILDCARDS = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class _Rule:
    pattern: str
    target: str | None
    """Empty: the default. None: the names stay unknown."""

    def matches(self, name: str) -> bool:
        return fnmatch.fnmatchcase(name.casefold(), self.pattern.casefold())


class Aliases:
    """Rules like `alloy=anna,nova=hugo,en-*=,!tts-*`, for names that do not exist here; the first that matches counts.

    `PATTERN=NAME` gives the name to use, `PATTERN=` the default, `!PATTERN` none. A pattern may have the wildcards `*`,
    `?` and `[...]` and does not distinguish upper and lower case.
    """

    def __init__(self, rules: str, foreign: str = "") -> None:
        """`foreign`: rules that follow. Raises ValueError for a text that is not rules."""
        self._rules = [*_parse(rules), *_parse(foreign)]

    def resolve(self, name: str) -> str | None:
        """Return the name that `name` stands for, empty for the default; None if no rule has it."""
        return next((rule.target for rule in self._rules if rule.matches(name)), None)

    @property
    def names(self) -> tuple[str, ...]:
        """The accepted names that the rules spell out, without patterns."""
        spelled = dict.fromkeys(rule.pattern for rule in self._rules if not _WILDCARDS.search(rule.pattern))
        return tuple(name for name in spelled if self.resolve(name) is not None)


def check_rules(rules: str) -> str:
    """Return `rules`. Raises ValueError unless `Aliases` accepts them."""
    Aliases(rules)
    return rules


def _parse(rules: str) -> list[_Rule]:
    return [_rule(rule.strip()) for rule in rules.split(",") if rule.strip()]


def _rule(rule: str) -> _Rule:
    if rule.startswith("!"):
        pattern, target = rule[1:].strip(), None
    else:
        pattern, equals, target = (part.strip() for part in rule.partition("="))
        if not equals or "=" in target:
            raise ValueError(f"{rule!r} is no rule; write PATTERN=NAME, PATTERN= for the default, or !PATTERN")
    if not pattern:
        raise ValueError(f"{rule!r} has no pattern; write PATTERN=NAME, such as alloy=anna")
    return _Rule(pattern, target)
