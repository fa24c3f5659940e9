"""An audio file of a client, read from its beginning to its end. Needs soundfile."""

from __future__ import annotations

import soundfile


class ForwardFile(soundfile.SoundFile):  # type: ignore[misc]  # soundfile has no type hints
    """Reads a file that states no length, too, as encoders write FLAC to a pipe and a gateway streams it.

    soundfile seeks to its place after each read, which fails at the end of such a file.
    """

    def seekable(self) -> bool:
        return False
