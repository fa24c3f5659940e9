"""The metadata of a registered voice. Its recording and extracted contents are stored next to it."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from dataclasses import asdict, dataclass

from gateway.voices.consent import Policy, Statement
from services.common.errors import InvalidInput, quoted

MAX_TRANSCRIPT_CHARS = 2000
MAX_DESCRIPTION_CHARS = 500
MAX_LANGUAGES = 20

_ID = re.compile(r"v[0-9a-f]{32}")
_NAME = re.compile(r"\w[\w .-]{0,63}")
_LANGUAGE = re.compile(r"[A-Za-z0-9-]{1,35}")


@dataclass(frozen=True)
class VoiceRecord:
    """The metadata. A record exists only if the recorded person has agreed to the use of their voice."""

    id: str
    owner: str
    name: str
    description: str
    languages: tuple[str, ...]
    transcript: str
    seconds: float
    """Length of the used part of the recording."""
    warnings: tuple[str, ...]
    created: float
    """Unix time."""
    consent: str = ""
    """Id of the recorded consent that is kept with the voice; empty without one."""

    def to_json(self) -> str:
        fields = asdict(self)
        if not self.consent:  # gateways of the last release refuse fields that they do not have
            del fields["consent"]
        return json.dumps(fields, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> VoiceRecord:
        """Parse the output of `to_json`. Raises ValueError, KeyError or TypeError for other text."""
        fields = json.loads(text)
        return cls(**{**fields, "languages": tuple(fields["languages"]), "warnings": tuple(fields["warnings"])})


@dataclass(frozen=True)
class NewVoice:
    """A request to register a voice; call `check` before use."""

    name: str
    transcript: str
    """Empty: the recording gives only its timbre, as for speech in another language."""
    consent: Statement
    description: str = ""
    languages: tuple[str, ...] = ()

    def check(self, policy: Policy, now: float) -> None:
        """Raise InvalidInput, which names the field. `now`: Unix time in seconds."""
        self.consent.check(policy, now)
        check_name(self.name)
        if len(self.transcript) > MAX_TRANSCRIPT_CHARS:
            raise InvalidInput(
                f"the transcript has {len(self.transcript)} characters; 30 s of speech have fewer than"
                f" {MAX_TRANSCRIPT_CHARS}",
                field="header.transcript",
            )
        if len(self.description) > MAX_DESCRIPTION_CHARS:
            raise InvalidInput(
                f"the description has more than {MAX_DESCRIPTION_CHARS} characters; shorten it",
                field="header.description",
            )
        check_languages(self.languages)


def normal_name(name: str) -> str:
    """Return the one spelling of a name: an accent may be a part of its letter, or a character behind the letter."""
    return unicodedata.normalize("NFC", name)


def check_name(name: str) -> None:
    """Raises InvalidInput unless `name` can name a voice or a consent."""
    # Marks belong to letters, such as the vowels of Hindi, but count as no letters.
    bare = "".join("_" if unicodedata.category(char).startswith("M") else char for char in name[1:])
    if not _NAME.fullmatch(name[:1] + bare) or is_id(name):
        raise InvalidInput(
            "a name has 1 to 64 letters, digits, spaces, dots, dashes or underscores, and begins with a letter, digit"
            " or underscore",
            field="header.name",
        )


def check_languages(languages: tuple[str, ...]) -> None:
    """Raises InvalidInput unless they are language tags."""
    if len(languages) > MAX_LANGUAGES:
        raise InvalidInput(f"languages has more than {MAX_LANGUAGES} tags; send fewer", field="header.languages")
    wrong = next((name for name in languages if not _LANGUAGE.fullmatch(name)), None)
    if wrong is not None:
        raise InvalidInput(f"{quoted(wrong)} is no language tag; send a tag like en or zh-CN", field="header.languages")


def voice_id(audio: bytes, transcript: str) -> str:
    """Return the id of a recording and its transcript; it does not depend on the model."""
    digest = hashlib.sha256(b"light-tts registered voice 1")
    for part in (audio, transcript.encode("utf-8", "surrogatepass")):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return f"v{digest.hexdigest()[:32]}"


def is_id(text: str) -> bool:
    """Return whether `text` has the form of an id; no voice name has this form."""
    return _ID.fullmatch(text) is not None
