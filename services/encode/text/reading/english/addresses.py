"""E-mail addresses, web addresses, file names, and addresses of networks and devices."""

from __future__ import annotations

import ipaddress

import regex

from services.encode.text.reading.rule import Match, rule
from services.encode.text.reading.words import cardinal, code, spelled

_MARKS = {
    ".": "dot", "@": "at", "/": "slash", "-": "dash", "_": "underscore", "?": "question mark", "=": "equals",
    "&": "and", "%": "percent", "#": "hash", ":": "colon", "~": "tilde", "+": "plus", ",": "comma", ";": "semicolon",
    "!": "exclamation mark", "*": "star", "$": "dollar", "'": "", "(": "", ")": "", "[": "", "]": "", "\\": "backslash",
}  # fmt: skip
_PARTS = regex.compile(r"\d+|\p{L}+|.", regex.DOTALL)
_ENDINGS = (
    "com|org|net|edu|gov|mil|info|biz|io|ai|dev|app|co|me|tv|xyz|tech|cloud|online|site|shop|blog|news|store|academy|"
    "museum|agency|uk|us|eu|de|fr|es|it|nl|be|ch|at|se|no|dk|fi|pl|cz|ru|ua|pt|gr|ie|jp|cn|kr|in|au|nz|ca|br|mx|za|sg|hk"
)
_FILES = (
    "py|js|jsx|ts|tsx|mjs|c|h|cpp|hpp|cc|rs|go|java|kt|rb|php|swift|cs|sh|bash|ps1|bat|exe|dll|so|txt|md|rst|pdf|docx?|"
    "xlsx?|pptx?|csv|tsv|json|jsonl|ya?ml|toml|xml|html?|css|scss|sql|db|log|ini|cfg|conf|env|lock|zip|tar|gz|tgz|rar|7z|"
    "png|jpe?g|gif|svg|webp|bmp|ico|mp3|mp4|m4a|wav|flac|ogg|opus|avi|mov|mkv|webm|bin|iso|img|deb|rpm|whl|onnx|pt|npz|proto"
)
# Codes of countries that are said letter by letter; the others are said as words.
_SPELLED = frozenset(
    [
        "io",
        "ai",
        "tv",
        "uk",
        "us",
        "eu",
        "de",
        "fr",
        "es",
        "nl",
        "ch",
        "se",
        "dk",
        "fi",
        "pl",
        "cz",
        "ru",
        "ua",
        "pt",
        "gr",
        "ie",
        "jp",
        "cn",
        "kr",
        "au",
        "nz",
        "ca",
        "br",
        "mx",
        "za",
        "sg",
        "hk",
    ]
)
_LABEL = r"[\p{L}\p{N}](?:[\p{L}\p{N}_-]*[\p{L}\p{N}])?"


def _read(written: str, *, last: str = "") -> str:
    """Read an address mark by mark; `last` is the label that ends a host."""
    words = []
    for part in _PARTS.findall(written):
        if part.isdigit():
            words.append(code(part) if part.isascii() else part)
        elif part[0].isalpha():
            words.append(part)
        else:
            words.append(_MARKS.get(part, ""))
    return " ".join(word for word in words if word)


def _host(host: str) -> str:
    *labels, ending = host.split(".")
    labels = [" ".join(label) if label.lower() == "www" else _read(label) for label in labels]
    last = " ".join(ending.upper()) if ending.lower() in _SPELLED else ending
    return " dot ".join([*labels, last])


def _email(match: Match) -> str:
    return f"{_read(match['user'])} at {_host(match['host'])}"


def _url(match: Match) -> str | None:
    host, rest = match["host"], match["rest"] or ""
    if not rest.startswith(("/", "?", "#", ":")) and rest:
        return None
    rest = rest.rstrip("/") if len(rest.rstrip("/")) == 0 else rest
    return f"{_network(host) if host[-1].isdigit() else _host(host)} {_read(rest)}".strip()


def _network(host: str) -> str:
    return " dot ".join(" ".join(_read(digit) for digit in part) for part in host.split("."))


def _ipv4(match: Match) -> str | None:
    parts = match["host"].split(".")
    if any(int(part) > 255 for part in parts):
        return None
    words = " dot ".join(spelled(part) for part in parts)
    if match["port"]:
        words += f" colon {spelled(match['port'])}"
    return f"{words} slash {cardinal(match['bits'])}" if match["bits"] else words


def _hexadecimal(written: str) -> str:
    said = {":": "colon", "-": "dash"}
    return " ".join(spelled(char) if char.isdigit() else said.get(char, char.upper()) for char in written)


def _ipv6(match: Match) -> str | None:
    written = match["host"]
    try:
        ipaddress.IPv6Address(written)
    except ValueError:
        return None
    words = _hexadecimal(written)
    return f"{words} slash {cardinal(match['bits'])}" if match["bits"] else words


def _device(match: Match) -> str:
    return _hexadecimal(match.group())


def _handle(match: Match) -> str:
    return f"at {_read(match['name'])}"


RULES = (
    rule("e-mail address", rf"(?<![\w.])(?P<user>[\w.+-]+)@(?P<host>(?:{_LABEL}\.)+\p{{L}}{{2,}})", _email, "@"),
    rule(
        "web address",
        r"""\b(?:https?|ftp|wss?)://(?:www\.(?=[^\s/]+\.))?(?P<host>[\p{L}\p{N}](?:[\p{L}\p{N}.-]*[\p{L}\p{N}])?)
        (?P<rest>(?:[/?\#:](?:[^\s<>"”）】，。]*[\p{L}\p{N}/=\#&%+_~$-])?)?)""",
        _url,
        "/",
    ),
    rule(
        "domain",
        rf"""(?<![\p{{L}}\p{{N}}@._/-])(?P<host>(?:{_LABEL}\.)+(?:{_ENDINGS}))(?![\p{{L}}\p{{N}}_-]|\.\p{{L}}\p{{Ll}})
        (?P<rest>(?:(?::\d+)?/(?:[^\s<>"”）】，。]*[\p{{L}}\p{{N}}/=\#&%+_~$-])?)?)""",
        _url,
        ".",
        when=rf"(?i)\.(?:{_ENDINGS})(?![A-Za-z])",
    ),
    rule(
        "file name",
        rf"(?<![\p{{L}}\p{{N}}@.])(?:[\p{{L}}\p{{N}}_-]+\.)*[\p{{L}}\p{{N}}_-]*\p{{L}}[\p{{L}}\p{{N}}_-]*\.(?:{_FILES})(?![\p{{L}}\p{{N}}_])",
        lambda match: _read(match.group()),
        ".",
        when=rf"\.(?:{_FILES})(?![A-Za-z])",
    ),
    rule(
        "hidden file",
        rf"(?<![^\s(\"'])\.(?!(?:so|go|c|h)\b)(?:NET|(?:git\w*|\w+(?:ignore|rc|config|profile)|ssh|vscode|htaccess|com|org"
        rf"|{_FILES})(?:\.\w+)*)(?![\w/@])",
        lambda match: _read(match.group()),
        ".",
        when=r"\.(?<![^\s\"'(]\.)[A-Za-z]",
    ),
    rule(
        "IPv6 address",
        r"(?<![\w:])(?=[0-9A-Fa-f:]*\d)(?P<host>[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7})(?:/(?P<bits>\d{1,3}))?(?![\w:])",
        _ipv6,
        ":",
        starts="0-9A-Fa-f:",
        when="[0-9A-Fa-f:]:[0-9A-Fa-f:]",
    ),
    rule(
        "unique id",
        r"(?<![\w-])[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}(?![\w-])",
        lambda match: ", ".join(map(_hexadecimal, match.group().split("-"))),
        "-",
        when="[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-",
    ),
    rule(
        "device address",
        r"(?<![\w:-])[0-9A-Fa-f]{2}([:-])[0-9A-Fa-f]{2}(?:\1[0-9A-Fa-f]{2}){4}(?![\w:-])",
        _device,
        ":-",
        when="[0-9A-Fa-f]{2}[:-][0-9A-Fa-f]{2}[:-][0-9A-Fa-f]{2}[:-]",
    ),
    rule(
        "IPv4 address",
        r"(?<![\w.])(?P<host>(?:(?:0|[1-9]\d{0,2})\.){3}(?:0|[1-9]\d{0,2}))(?::(?P<port>\d{1,5}))?(?:/(?P<bits>\d{1,2}))?(?![\w]|\.\d)",
        _ipv4,
        ".",
        starts=r"\d",
        when=r"\d\.\d",
    ),
    rule(
        "path",
        r"(?<![\w./\\:])(?:[A-Za-z]:\\|~?/|\.{1,2}/)(?:[\w.-]+[/\\])*[\w.-]*\w[/\\]?(?=[/\\\w]*)(?<=[/\\].*[/\\].*|:\\.*|~/.*|\./.*)",
        lambda match: _read(match.group()),
        "/\\",
        when=r"(?:^|[\s(\"'])(?:[A-Za-z]:\\|~?/\w|\.{1,2}/)",
    ),
    rule("port of this machine", r"(?<=\blocalhost):(?=\d)", lambda match: " colon ", ":"),
    rule("handle", r"(?<![\w@])@(?P<name>[\p{L}_][\w.]*\w|\p{L})", _handle, "@"),
)
