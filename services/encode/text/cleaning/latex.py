r"""LaTeX in a text, written as plain mathematics: `$\frac{1}{2} x^2 \leq \pi$` as `1/2 x² ≤ π`.

A closed set of commands becomes signs, which the rules of the language read. What is not in the set keeps its letters
and digits and loses its marks, so no digit is lost and no backslash is spoken. Two dollar signs are LaTeX only by the
rule of Pandoc, so `$5 and $6` is money: no blank after the first one, none before the last one, no digit after it.
"""

from __future__ import annotations

import regex

_GREEK_NAMES = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi pi rho sigma tau "
    "upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"
)
_GREEK = dict(zip(_GREEK_NAMES.split(" "), "αβγδεεζηθθικλμνξπρστυφφχψωΓΔΘΛΞΠΣΦΨΩ", strict=True))
_SIGNS = {
    "times": "×", "cdot": "×", "div": "÷", "pm": "±", "leq": "≤", "le": "≤", "geq": "≥", "ge": "≥", "neq": "≠",
    "ne": "≠", "approx": "≈", "equiv": "≡", "propto": "∝", "lt": "<", "gt": ">", "infty": "∞", "in": "∈", "notin": "∉",
    "subset": "⊂", "subseteq": "⊆", "cup": "∪", "cap": "∩", "forall": "∀", "exists": "∃", "sum": "∑", "prod": "∏",
    "int": "∫", "partial": "∂", "nabla": "∇", "emptyset": "∅", "land": "∧", "lor": "∨", "neg": "¬", "ldots": "…",
    "dots": "…", "cdots": "…", "circ": "°", "degree": "°", "to": "→", "rightarrow": "→", "implies": "→",
    "Rightarrow": "→",
}  # fmt: skip
_COMMANDS = {name: f" {sign} " if not sign.isalpha() else sign for name, sign in (_SIGNS | _GREEK).items()}
_FUNCTIONS = "sin|cos|tan|cot|arcsin|arccos|arctan|sinh|cosh|tanh|log|ln|lim|exp|min|max|gcd|det|dim|mod"
_INNER = r"((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)"
_KNOWN = "|".join(sorted({*_COMMANDS, *_FUNCTIONS.split("|")}, key=len, reverse=True))
_FORMULA = regex.compile(
    r"\$\$(.+?)\$\$|\\\((.+?)\\\)|\\\[(.+?)\\\]|(\\begin\{\w+\*?\}.+?\\end\{\w+\*?\})|(?<![\\$\w])\$(?!\s)([^$\n]{0,200}?[^$\s\\])\$(?![\d$])",
    regex.DOTALL,
)
_LOOSE = regex.compile(
    rf"(?<![\w:\\])\\(?:[dt]?frac\{{{_INNER}\}}\{{{_INNER}\}}|sqrt(?:\[[^\[\]]*\])?\{{{_INNER}\}}"
    rf"|(?:text|textbf|textit|emph|mathrm|mathbf|boxed)\{{{_INNER}\}}|(?:{_KNOWN})(?![A-Za-z])(?:[\^_](?:\{{{_INNER}\}}|\w))*)"
)
"""Commands outside of a formula."""
_UNKNOWN = regex.compile(rf"(?<![\w:\\.])\\[A-Za-z]+\{{{_INNER}\}}|(?<![\w:\\.])\\(?=[A-Za-z]+(?![\\\w]))")
_SPACES = regex.compile(r"\\(?:[,;:! ]|q?quad(?![A-Za-z]))|~")
_DROPPED = regex.compile(
    r"\\(?:text[a-z]*|math[a-z]+|operatorname|emph|boxed|mbox|vec|hat|bar|tilde|overline|underline)\s*(?=[{A-Za-z])"
    r"|\\(?:left|right|big|Big|bigg|Bigg|displaystyle|limits|nolimits)(?![A-Za-z])\.?|\\(?:begin|end)\{[^{}]*\}(?:\{[^{}]*\})?"
)
_FRACTION = regex.compile(rf"\\[dtc]?frac\s*(?:\{{{_INNER}\}}\s*\{{{_INNER}\}}|(\d)(\d))")
_BINOMIAL = regex.compile(rf"\\[dt]?binom\s*\{{{_INNER}\}}\s*\{{{_INNER}\}}")
_ROOT = regex.compile(rf"\\sqrt\s*(?:\[([^\[\]]*)\])?\s*\{{{_INNER}\}}")
_DEGREES = regex.compile(r"\^\s*\{?\s*\\(?:circ|degree)(?![A-Za-z])\s*\}?")
_POWER = regex.compile(rf"\^\s*(?:\{{{_INNER}\}}|(\d+|[^\s\d{{}}\\(−-]|\\[A-Za-z]+))")
_LIMITS = regex.compile(
    rf"\\(sum|prod|int|lim|bigcup|bigcap|max|min)(?![A-Za-z])\s*_\s*(?:\{{{_INNER}\}}|(\w))(?:\s*\^\s*(?:\{{{_INNER}\}}|(\w|\\infty)))?"
)
_INDEX = regex.compile(rf"_\s*(?:\{{{_INNER}\}}|(\d+|[^\s\d{{}}\\(−-]|\\[A-Za-z]+))")
_COMMAND = regex.compile(r"\\([A-Za-z]+)(?:\s(?![=+<>-]))?")
_NUMBER = regex.compile(r"[1-9]\d{0,3}")
_ATOM = regex.compile(r"[-−]?(?:\w|\d+(?:\.\d+)?)")
_HIGH = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_BLANKS = regex.compile(r" {2,}")


def plain_formulas(text: str) -> str:
    """Return the text with its LaTeX as plain mathematics."""
    if "$" in text or "\\" in text:
        text = _FORMULA.sub(_formula, text)
    if "\\" in text:
        text = _LOOSE.sub(lambda match: _plain(match.group()), text)
        text = _UNKNOWN.sub(r"\g<1>", text)
    return text


def _formula(match: regex.Match[str]) -> str:
    written = next(group for group in match.groups() if group is not None)
    plain = _plain(written)
    before, after = match.string[match.start() - 1 : match.start()], match.string[match.end() : match.end() + 1]
    return f"{' ' if before.isalnum() else ''}{plain}{' ' if after.isalnum() else ''}"


def _plain(written: str) -> str:
    text = _DROPPED.sub("", written.replace("\\\\", ", ").replace("&", " ").replace("{,}", ","))
    text = _SPACES.sub(" ", text).replace("\\{", " ").replace("\\}", " ").replace("\\|", " ").replace("'", "′")
    text = _ESCAPED.sub(r"\g<1>", text)
    text = _LIMITS.sub(_limits, text)
    for _ in range(8):  # one for each level of braces
        inner = _BINOMIAL.sub(r"{\1} , {\2}", _ROOT.sub(_root, _FRACTION.sub(_fraction, _DEGREES.sub("°", text))))
        inner = _INDEX.sub(_index, _POWER.sub(_power, inner))
        if inner == text:
            break
        text = inner
    text = _COMMAND.sub(lambda command: _COMMANDS.get(command.group(1), f" {command.group(1)} "), text)
    text = text.replace("{", " ").replace("}", " ").replace("\\", " ").replace("$", " ")
    return _BLANKS.sub(" ", text).replace(" ^", "^").strip()


_ESCAPED = regex.compile(r"\\([%$#&_])")


def _fraction(match: regex.Match[str]) -> str:
    over, under = (match[1], match[2]) if match[1] is not None else (match[3], match[4])
    if _NUMBER.fullmatch(over.strip()) and _NUMBER.fullmatch(under.strip()):
        return f" {over.strip()}/{under.strip()} "
    return f" {_bracketed(over)} ÷ {_bracketed(under)} "


def _limits(match: regex.Match[str]) -> str:
    """Write the limits of a sum before what is summed: ∑ i=1 … n, i²."""
    low, high = match[2] or match[3], match[4] or match[5]
    return f" \\{match[1]} {low}{f' … {high}' if high else ''}, "


def _root(match: regex.Match[str]) -> str:
    sign = {"3": "∛", "4": "∜", "2": "√"}.get(match[1] or "2", f"{match[1]} √")
    return f" {sign}{_bracketed(match[2])}"


def _power(match: regex.Match[str]) -> str:
    written = match[1] if match[1] is not None else match[2]
    return written.strip().translate(_HIGH) if written.strip().isdecimal() else f"^{_bracketed(written)}"


def _index(match: regex.Match[str]) -> str:
    return f" {match[1] if match[1] is not None else match[2]} "


def _bracketed(written: str) -> str:
    text = written.strip()
    return text if _ATOM.fullmatch(text) or (text.startswith("\\") and text[1:].isalpha()) else f"({text})"
