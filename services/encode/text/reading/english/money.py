"""Sums of money."""

from __future__ import annotations

import regex

from services.encode.text.reading.english.amounts import DASH, END, SIGN, Amount, amount, number, sign_words
from services.encode.text.reading.rule import NUMERIC, Match, rule
from services.encode.text.reading.words import cardinal

_CENT = ("cent", "cents")
_NAMES: dict[str, tuple[str, str, tuple[str, str] | None]] = {
    "$": ("dollar", "dollars", _CENT),
    "€": ("euro", "euros", _CENT),
    "£": ("pound", "pounds", ("penny", "pence")),
    "¥": ("yen", "yen", None),
    "￥": ("yen", "yen", None),
    "₹": ("rupee", "rupees", ("paisa", "paise")),
    "Rs": ("rupee", "rupees", ("paisa", "paise")),
    "₩": ("won", "won", None),
    "₽": ("ruble", "rubles", ("kopeck", "kopecks")),
    "₺": ("lira", "lira", None),
    "₫": ("dong", "dong", None),
    "฿": ("baht", "baht", None),
    "₪": ("shekel", "shekels", None),
    "₴": ("hryvnia", "hryvnias", None),
    "₦": ("naira", "naira", None),
    "₱": ("peso", "pesos", None),
    "₿": ("bitcoin", "bitcoins", None),
    "R$": ("real", "reais", None),
    "USD": ("US dollar", "US dollars", _CENT),
    "EUR": ("euro", "euros", _CENT),
    "GBP": ("pound", "pounds", ("penny", "pence")),
    "JPY": ("yen", "yen", None),
    "CNY": ("yuan", "yuan", None),
    "RMB": ("yuan", "yuan", None),
    "INR": ("rupee", "rupees", None),
    "CHF": ("Swiss franc", "Swiss francs", None),
    "CAD": ("Canadian dollar", "Canadian dollars", _CENT),
    "AUD": ("Australian dollar", "Australian dollars", _CENT),
}
_COUNTRIES = {
    "US": "US", "CA": "Canadian", "C": "Canadian", "AU": "Australian", "A": "Australian", "NZ": "New Zealand",
    "HK": "Hong Kong", "S": "Singapore", "NT": "Taiwan", "USD": "US", "CAD": "Canadian", "AUD": "Australian",
    "NZD": "New Zealand", "HKD": "Hong Kong", "SGD": "Singapore",
}  # fmt: skip
_SCALES = {
    "k": "thousand", "m": "million", "mn": "million", "mm": "million", "mil": "million", "mio": "million",
    "b": "billion", "bn": "billion", "t": "trillion", "tn": "trillion",
}  # fmt: skip
_PER = {
    "hr": "hour", "h": "hour", "mo": "month", "m": "month", "yr": "year", "y": "year", "wk": "week", "d": "day",
    "min": "minute", "sec": "second", "s": "second", "kg": "kilogram", "lb": "pound", "gb": "gigabyte", "pp": "person",
    "oz": "ounce", "gal": "gallon", "bbl": "barrel", "sqft": "square foot", "sqm": "square meter",
}  # fmt: skip
CURRENCIES = ("USD", "EUR", "GBP", "JPY", "CNY", "RMB", "INR", "CHF", "CAD", "AUD")
_CODES = "|".join(CURRENCIES)
_SYMBOLS = "€£¥￥₹₩₽₺₫฿₪₴₦₱₿"
_CURRENCY = rf"(?:[${_SYMBOLS}]|{_CODES}|\bRs\b)"
_PREFIX = rf"(?:(?:(?:US|CA|AU|NZ|HK)D?|SGD|C|A|S|NT|R)?\$|[{_SYMBOLS}]|Rs\.?(?=\s?\d)"
_PREFIX += rf"|(?<!/)(?!INR\s\d\.\d(?!\d))(?:{_CODES})(?=[\s\d]))"  # EUR/USD 1.08; INR 2.3 is a test of the blood
_SUFFIX = rf"(?:[{_SYMBOLS}](?!\s?\d)|\$(?![\w])|(?:{_CODES})(?!\w))"
_SCALE = (
    r"(?:[kKMmBbTt]|[mM][nN]|MM|mm|mil|mio|[bB][nN]|[tT][nN])(?![\w])"
    r"|[\s-]?(?:hundred|thousand|million|billion|trillion|lakh|crore)s?\b|\s(?:[MKB]|[bt]n)(?!\w)"
)
_INTEREST = regex.compile(
    r"%|\b(?:percent|margins?|rates|interest|yields?|spreads?|Fed|ECB|hikes?|curve|Treasur(?:y|ies)|bonds?|basis)\b"
)
_BITS = regex.compile(r"\b(?:data|bit|baud|modem|serial|link|network)\b")
_ARTICLE = regex.compile(r"(?:^|\s)[Aa]n?\s$")
_EACH = regex.compile(r"-(?:an?|per)-\p{L}")
_DOLLARS = regex.compile(r"[\s-](?:dollar|euro|pound|buck)s?\b")
_PER_WHAT = r"(?:\s?/\s?(?P<per>sq\.?[ ](?:ft|m)\b|[a-z]{1,12})(?![\w/])"
_PER_WHAT += r"(?:(?<=/\s?(?:mo|yr|hr|wk|min|sec|lb|oz|gal|ea))\.(?=,|\)|\s[a-z(]))?|/-(?!\w))?"


def is_about_interest(text: str) -> bool:
    """Return whether bp and bps are hundredths of a percent in this sentence, and not bits or pairs of bases."""
    return _INTEREST.search(text) is not None and _BITS.search(text) is None


def _name(currency: str) -> tuple[str, str, tuple[str, str] | None]:
    if currency.rstrip(".") in _NAMES:
        return _NAMES[currency.rstrip(".")]
    country = _COUNTRIES[currency[:-1]]
    return (f"{country} dollar", f"{country} dollars", _CENT)


def sum_words(value: Amount, scale: str | None, currency: str, *, bare: bool = False) -> str:
    """Read a sum; `bare`: without the name of the currency."""
    one, many, minor = _name(currency)
    if scale:
        word = scale.strip(" \u00a0\u202f\t\n-").lower()
        return f"{value.words()} {_SCALES.get(word, word)}" + ("" if bare else f" {many}")
    cents = value.fraction if len(value.fraction) == 2 and minor else ""
    if not cents:
        return value.words() if bare else f"{value.words()} {one if value.is_one else many}"
    whole = value.whole or "0"
    parts = []
    if int(whole) or not int(cents):
        parts.append(f"{cardinal(whole)} {one if whole == '1' else many}")
    if int(cents) and minor:
        parts.append(f"{cardinal(str(int(cents)))} {minor[0] if int(cents) == 1 else minor[1]}")
    return " and ".join(parts)


def _money(match: Match) -> str | None:
    currency = match["currency"]
    if currency == "¥" and "元" in match.string:
        return None
    named = _DOLLARS.match(match.string, match.end()) is not None
    low, high = amount(match["low"]), match["high"]
    words = sign_words(match["sign"] or match["inner"])
    scale = match["scale"]
    if high is None:
        words += sum_words(low, scale, currency, bare=named)
        joined = (scale or "").startswith("-") or _EACH.match(match.string, match.end()) is not None
        if not named and (joined or _ARTICLE.search(match.string, max(0, match.start() - 4), match.start())):
            words = _before_noun(words, currency, match)
    else:
        last = amount(high)
        end = match["scale2"]
        shared = match["again"] and end and not scale and float(low.digits) < float(last.digits)
        if shared:  # $3.5–$4 million
            return f"{words}{low.words()} to {sum_words(last, end, currency, bare=named)}{_per(match)}"
        plain = not (low.fraction and len(low.fraction) == 2) and not match["again"] and not (scale and not end)
        words += f"{sum_words(low, scale, currency, bare=plain)} to {sum_words(last, end, currency, bare=named)}"
    return words + _per(match)


def _before_noun(words: str, currency: str, match: Match) -> str:
    """Read a sum before a noun in the singular: a $5 fee -> a five dollar fee."""
    one, many, _ = _name(currency)
    follows = match.string[match.end() : match.end() + 2]
    return words.removesuffix(many) + one if follows[:1] in " -" and follows[1:].isalpha() else words


def _per(match: Match) -> str:
    per = (match["per"] or "").replace(".", "").replace(" ", "")
    return " each" if per == "ea" else f" per {_PER.get(per, per)}" if per else ""


def _after(match: Match) -> str | None:
    currency = match["currency"].strip()
    low, high = match["low"], match["high"]
    words = sign_words(match["sign"])
    if low:
        words += f"{amount(low).words()} to "
    return words + sum_words(amount(high), match["scale"], currency) + _per(match)


def _cents(match: Match) -> str:
    value = amount(match["value"])
    return f"{value.words()} cent{'' if value.is_one else 's'}{_per(match)}"


RULES = (
    rule(
        "several for a sum",
        r"(?<![\w.,/-])(?P<count>[2-9]|1\d)/(?=[$€£]\d)",
        lambda match: f"{match['count']} for ",
        "/",
        when=r"\d/[$€£]",
    ),
    rule(
        "sums in a row",
        r"(?<=[$€£]\d[\d,.]{0,12})\s?/\s?(?=[$€£]\d)",
        lambda match: " slash ",
        "/",
        when=r"/\s?[$€£]",
    ),
    rule(
        "money",
        rf"""(?P<sign>{SIGN}\s?)?(?<![\w$])(?P<currency>{_PREFIX})\s?(?P<inner>[-−])?
        {number("low", comma=True)}{END}(?P<scale>{_SCALE})?
        (?:{DASH}(?P<again>{_PREFIX})?{number("high", comma=True)}{END}(?P<scale2>{_SCALE})?(?![\w%]))?{_PER_WHAT}""",
        _money,
        starts=rf"$\-−–+±~≈{_SYMBOLS}A-Z",
        when=_CURRENCY,
    ),
    rule(
        "money, sign last",
        rf"""(?P<sign>{SIGN})?(?<![\w.,])(?:{number("low", comma=True)}{DASH})?{number("high", comma=True)}{END}
        (?P<scale>{_SCALE})?\s?(?P<currency>{_SUFFIX}){_PER_WHAT}""",
        _after,
        starts=NUMERIC,
        when=rf"\d\s?[A-Za-z]{{0,8}}\s?{_CURRENCY}",
    ),
    rule("cents", rf"""(?<![\w.,]){number("value")}{END}\s?¢{_PER_WHAT}""", _cents, "¢", starts=r"\d."),
)
