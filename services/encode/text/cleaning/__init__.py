"""Removes what cannot be pronounced: pictures, invisible characters, Markdown marks, HTML tags."""

from services.encode.text.cleaning.characters import drop_unspeakable
from services.encode.text.cleaning.sentence import clean

__all__ = ["clean", "drop_unspeakable"]
