"""Sums with a sign of a currency, and telephone numbers with the code of a country, outside English and Chinese."""

from __future__ import annotations

from collections.abc import Callable

import regex

from services.encode.text.reading.rule import Match

Say = Callable[[str], str | None]
"""A number as it is written, in words."""


def _names(written: str) -> dict[str, tuple[str, str]]:
    """Return the sum of one and the plural for each sign."""
    parts = (part.split(" ", 1) for part in written.split("; "))
    return {sign: (words.split(", ")[0], words.split(", ")[1]) for sign, words in parts}


_NAMES = {
    "de": _names("$ ein Dollar, Dollar; £ ein Pfund, Pfund; ¥ ein Yen, Yen; € ein Euro, Euro"),
    "fr": _names("$ un dollar, dollars; £ une livre, livres; ¥ un yen, yens; € un euro, euros"),
    "es": _names("$ un dólar, dólares; £ una libra, libras; ¥ un yen, yenes; € un euro, euros"),
    "it": _names("$ un dollaro, dollari; £ una sterlina, sterline; ¥ uno yen, yen; € un euro, euro"),
    "pt": _names("$ um dólar, dólares; £ uma libra, libras; ¥ um iene, ienes; € um euro, euros; R$ um real, reais"),
    "nl": _names("$ een dollar, dollar; £ een pond, pond; ¥ een yen, yen; € een euro, euro"),
    "ja": _names("$ 一ドル, ドル; £ 一ポンド, ポンド; ¥ 一円, 円; € 一ユーロ, ユーロ"),
    "ko": _names("$ 일 달러, 달러; £ 일 파운드, 파운드; ¥ 일 엔, 엔; ₩ 일 원, 원; € 일 유로, 유로"),
}
_CENTS = {"de": " ", "fr": " ", "es": " con ", "it": " e ", "pt": " e ", "nl": " "}
_OF = {"fr": "de ", "es": "de ", "it": "di ", "pt": "de "}
"""Between millions and the currency."""
_SIGN = r"(?:US|R)?\$|[£¥₩]|€(?=\s?\d)"
_AMOUNT = r"\d(?:[\d.,'’\u00a0\u202f]*\d)?"
_SCALE = r"(?:mil )?[Mm]il[lihj]\w+|bilh\w+|Mio\.|Mrd\.|mln\b|mld\b"
_SUM = regex.compile(
    rf"(?<![A-Za-z\d$])(?P<currency>{_SIGN})\s?(?P<amount>{_AMOUNT})(?:\s?[-–〜～~]\s?(?:{_SIGN})?(?P<last>{_AMOUNT}))?"
    rf"(?:\s(?P<scale>{_SCALE}))?(?![\d%]|[-/:]\d)"
    rf"|(?<![\w.,$/:-])(?P<amount>{_AMOUNT})"
    rf"(?:\s(?P<scale>{_SCALE})\s(?P<currency>[€$£¥])|\s?(?P<currency>US\$|[$£¥]))(?!\w|\s?\d)"
)
_SCALES = {"Mio.": "Millionen", "Mrd.": "Milliarden"}
_PLUS = {
    "de": "plus", "fr": "plus", "es": "más", "it": "più", "pt": "mais", "nl": "plus", "pl": "plus", "cs": "plus",
    "sv": "plus", "da": "plus", "no": "pluss", "fi": "plus", "ru": "плюс", "uk": "плюс", "tr": "artı",
    "ja": "プラス", "ko": "플러스",
}  # fmt: skip
_BETWEEN = "[ \u00a0\u202f/.-]"
_TELEPHONE = regex.compile(
    rf"(?<![0-9A-Za-z+])\+(?:[1-9]\d{{0,2}}(?:{_BETWEEN}?\(\d{{1,5}}\){_BETWEEN}?\d{{1,11}})?(?:{_BETWEEN}{{1,2}}\d{{1,11}}){{1,6}}"
    r"|[1-9]\d{7,14})(?![A-Za-z\d]|[.,]\d)"
)
_SHORTEST = 8
"""Digits of a telephone number with the code of its country."""


def read_sums(text: str, language: str, number: Say, to: str) -> str:
    """Return the text with its sums of money in words; `to` is the word between the ends of a range."""
    names = _NAMES.get(language)
    if names is None or not any(sign in text for sign in "$£¥₩€"):
        return text

    def read(match: Match) -> str:
        currency = match["currency"].removeprefix("US")
        if currency not in names:
            return match.group()
        amount, last, scale = match["amount"], match["last"], match["scale"] or ""
        cents = regex.fullmatch(r"(?P<whole>[\d.,'’\u00a0\u202f]*\d)[.,](?P<cents>\d\d)", amount)
        one, many = names[currency]
        blank = "" if language == "ja" else " "
        if last or scale or cents is None or language not in _CENTS:
            words = [number(amount), number(last)] if last else [number(amount)]
            if None in words:
                return match.group()
            if amount == "1" and not last and not scale:
                return one
            said = f"{blank}{to}{blank}".join(word for word in words if word)
            scaled = f" {_SCALES.get(scale, scale)} {_OF.get(language, '')}" if scale else blank
            return f"{said}{scaled}{many}"
        whole = number(regex.sub(r"[.,]", "", cents["whole"]))
        units = one if cents["whole"] == "1" else f"{whole} {many}"
        few = cents["cents"].lstrip("0")
        return match.group() if whole is None else f"{units}{_CENTS[language]}{number(few)}" if few else units

    return _SUM.sub(read, text)


def read_telephones(text: str, language: str, digit: Say) -> str:
    """Return the text with telephone numbers that have the code of a country in words, digit by digit."""
    if "+" not in text or language not in _PLUS:
        return text
    blank, comma = ("", "、") if language == "ja" else (" ", ", ")

    def read(match: Match) -> str:
        runs = regex.findall(r"\d+", match.group())
        if sum(map(len, runs)) < _SHORTEST:
            return match.group()
        return f"{_PLUS[language]}{blank}{comma.join(blank.join(digit(one) or one for one in run) for run in runs)}"

    return _TELEPHONE.sub(read, text)
