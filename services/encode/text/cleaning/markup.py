"""HTML in text: entities decoded, tags dropped with their text kept."""

from __future__ import annotations

import html

import regex

_ENTITY = regex.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_COMMENT = regex.compile(r"<!--.*?-->", regex.DOTALL)
_NAMES = """
a abbr address article aside audio b bdi bdo big blockquote body br break button canvas caption center cite code col
colgroup data dd del details dfn dialog div dl dt em emphasis emotion fieldset figcaption figure font footer form frame
h1 h2 h3 h4 h5 h6 head header hr html i iframe img input ins kbd label legend li link main map mark math meta nav
noscript object ol option p param phoneme picture pre prosody q rp rt ruby s samp say-as script section select small
source span speak strike strong style sub summary sup svg table tbody td template textarea tfoot th thead time title tr
track tt u ul var video voice wbr
"""
_ATTRIBUTE = r"""\s+[\w:.-]+\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'<>=]+)"""
_TAG = regex.compile(rf"<(/?)([A-Za-z][\w:-]*)((?:{_ATTRIBUTE})*)\s*(/?)>")
_BREAKING = "br hr p div li tr td th h1 h2 h3 h4 h5 h6 ul ol table dd dt blockquote"
_KNOWN = frozenset(_NAMES.split())
_LINES = frozenset(_BREAKING.split())


def decoded(text: str) -> str:
    """Decode HTML entities, also those that were encoded twice."""
    while "&" in text:
        plain = _ENTITY.sub(lambda entity: html.unescape(entity.group()), text)
        if plain == text:
            break
        text = plain
    return text


def without_tags(text: str) -> str:
    """Drop comments and tags. `<name>` alone is a tag only if HTML or SSML has the name: `List<int>` stays."""
    if "<" not in text or ">" not in text:
        return text
    return _TAG.sub(_replacement, _COMMENT.sub(" ", text))


def _replacement(tag: regex.Match[str]) -> str:
    close, name, attributes, empty = tag.groups()
    if not (name.lower() in _KNOWN or attributes or empty):
        return tag.group()
    return " " if name.lower() in _LINES or (empty and not close) else ""
