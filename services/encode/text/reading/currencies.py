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
_ONE_SCALE = {"Mio.": "Million", "Mrd.": "Milliarde"}
_ONE_MILLION = {"de": "eine", "fr": "un", "es": "un", "it": "un", "pt": "um", "nl": "een"}
_GERMAN_SCALE = regex.compile(r"(?P<one>(?<![\d.,])1)?(?<=\d)\s(?P<scale>Mio|Mrd)\.(?!\s?[€$£¥])")
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
_CODE_WORDS = {
    "de": r"PIN|TAN|PLZ|(?:\w+)?[Cc]ode|Passwort|(?:Kunden|Bestell|Rechnungs|Auftrags|Vorgangs|Buchungs)nummer",
    "fr": r"[Cc]ode(?:\s(?:PIN|postal|secret|de\s\w+))?|PIN|"
    r"mot\sde\spasse|numéro\sde\s(?:commande|client|dossier)",  # codespell:ignore
    "es": r"[Cc]ódigo(?:\s(?:PIN|postal|de\s\w+))?|PIN|[Cc]ontraseña|"
    r"número\sde\s(?:pedido|cliente|reserva)",  # codespell:ignore
    "it": r"[Cc]odice(?:\s(?:PIN|postale|di\s\w+))?|PIN|CAP|[Pp]assword|"
    r"numero\s(?:d['’]ordine|cliente)",  # codespell:ignore
    "pt": r"[Cc]ódigo(?:\s(?:PIN|postal|de\s\w+))?|PIN|CEP|[Ss]enha|número\sdo\spedido",
    "nl": r"PIN|(?:\w+)?code|[Ww]achtwoord|(?:bestel|klant|order)nummer",
    "ru": r"[Кк]од(?:\sподтверждения)?|ПИН(?:-код)?|[Пп]ароль|[Ии]ндекс|[Нн]омер\sзаказа",
    "ja": r"コード|番号|パスワード",
    "ko": r"코드|번호|비밀번호",
}
_IS = r"(?:\s(?:ist|lautet|est|es|è|é|is)|は|는|은)?\s?:?\s?"
_CODES = {
    language: regex.compile(rf"(?<=(?<!\p{{L}})(?:{words}){_IS})\d{{3,8}}(?![\d%€$]|[.,:/-]\d|\s\d)")
    if language not in ("ja", "ko")
    else regex.compile(rf"(?<=(?:{words}){_IS})\d{{3,8}}(?![\d%]|[.,:/-]\d|\s\d)")
    for language, words in _CODE_WORDS.items()
}
"""A number after the word that makes it a code: PIN 4711."""
_ACCOUNT = regex.compile(r"(?<![\w-])[A-Z]{2}\d\d(?:\s?[A-Z0-9]{4}){2,7}(?:\s?[A-Z0-9]{1,3})?(?![\w-])")
_SHORTEST = 8
"""Digits of a telephone number with the code of its country."""


def read_sums(text: str, language: str, number: Say, to: str) -> str:
    """Return the text with its sums of money in words; `to` is the word between the ends of a range."""
    if language == "de":
        text = _GERMAN_SCALE.sub(_german_scale, text)
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
            if amount == "1" and scale and language in _ONE_MILLION:
                words = [_ONE_MILLION[language]]
                scale = _ONE_SCALE.get(scale, scale)
            if amount == "1" and not last and not scale:
                return one
            said = f"{blank}{to}{blank}".join(word for word in words if word)
            of = "d'" if language == "fr" and many.startswith("e") else _OF.get(language, "")
            scaled = f" {_SCALES.get(scale, scale)} {of}" if scale else blank
            return f"{said}{scaled}{many}"
        whole = number(regex.sub(r"[.,]", "", cents["whole"]))
        units = one if cents["whole"] == "1" else f"{whole} {many}"
        few = cents["cents"].lstrip("0")
        return match.group() if whole is None else f"{units}{_CENTS[language]}{number(few)}" if few else units

    return _SUM.sub(read, text)


def _german_scale(match: Match) -> str:
    scale = f"{match['scale']}."
    return f"eine {_ONE_SCALE[scale]}" if match["one"] else f" {_SCALES[scale]}"


def read_codes(text: str, language: str, digit: Say) -> str:
    """Return the text with codes and postal codes in words, digit by digit."""
    if language not in _CODES:
        return text
    blank = "" if language == "ja" else " "
    return _CODES[language].sub(lambda match: blank.join(digit(char) or char for char in match.group()), text)


def read_accounts(text: str, language: str, digit: Say) -> str:
    """Return the text with the digits of its IBANs in words, group by group."""
    blank, comma = ("", "、") if language == "ja" else (" ", ", ")

    def read(match: Match) -> str:
        if sum(map(str.isdigit, match.group())) < _SHORTEST:
            return match.group()
        return comma.join(blank.join(digit(char) or char for char in group) for group in match.group().split())

    return _ACCOUNT.sub(read, text)


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
