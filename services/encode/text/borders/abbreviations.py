"""Decides whether the full stop of an abbreviation or initialism also ends its sentence."""

from __future__ import annotations

import regex

from services.encode.text.borders.words import words

# Names or examples follow these: their full stop never ends a sentence.
_LEADING = words("""
    mr mrs ms mx dr prof gen col maj capt cmdr lt sgt cpl pvt adm rev fr hon gov sen rep supt messrs mme mlle
    mt ft e.g i.e a.k.a pres cf vs viz approx ca resp incl esp et.al bzw z.b d.h u.a sog mio mrd inkl zzgl ggf evtl
    """)
# Numbers follow these. Before anything else they are words, or end a sentence.
_BEFORE_NUMBERS = words("""
    no nos nr fig figs eq eqs vol vols p pp pg pgs sec secs sect ch chap chaps art arts ref refs tab tabs ex app par
    para pt ed eds v vv l ll col cols abb abs s bd aufl tel ext apt ste rm fl op rt rte rs
    ver cat ps chs fn cor gal eph heb deut eccl prov isa jer bldg
    """)
# These may end a sentence, and names may follow them: only a word that begins a sentence decides.
_TRAILING = words("""
    st sr jr inc ltd co corp bros llc plc dept univ assn ave blvd rd ln hwy sq esq ph.d m.d b.a m.a b.sc m.sc ll.b
    d.d.s r.n u.s u.k u.n e.u d.c a.m p.m a.d b.c b.c.e c.e n.b p.s al est gov fed civ crim cir
    """)
# These end a sentence if a capital follows.
_BEFORE_LOWER_CASE = words(
    """
    etc usw jh jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thurs fri sat sun
    temp avg qty excl bldg govt acct bal reg orig oz lbs tsp tbsp hrs yrs mos
    """
)
# Also units are abbreviations, after a number.
_UNITS = words(
    "in ft yd mi oz lb lbs pt qt gal hr hrs min mins sec secs mo mos wk wks yr yrs tsp tbsp km cm mm kg mg ml sq cu max"
    " avg"
)
# These are words as well, so only their capitalised form is an abbreviation.
_CAPITALISED = words(
    """
    gen col maj adm rev hon gov sen rep pres cat mt ft fr no art ex app par pt s st co sq mar sun sat mon wed jan dec
    """
)
_LOWER_TOO = words("no art ex app par pt ft sq co")
"""Of the capitalised ones, those that are also written in lower case before a number."""

STARTERS = words("""
    the a an it he she they we i you this that these those there here in on at by for from but and or so if when while
    as after before since then now what who why how where which is are was were do does did can could will would should
    my your his her its our their not no yes let please however also meanwhile because although though once with
    without to some many most all each every both another other such once only even still just maybe perhaps
    """)
"""Words that begin a sentence if they are capitalised after an abbreviation."""
LONGEST_STARTER = 10
_GERMAN_ARTICLE = regex.compile(r"\b(?:[Dd]er|[Dd]ie|[Dd]as|[Dd]em|[Dd]es|[Zz]um|[Zz]ur|[Vv]om|[Bb]eim) [1-9]\d?$")
_SHORT_NUMBER = regex.compile(r"(?<![\w.,:/-])(?:[1-9]|[12]\d|3[01])$")
_IN_GERMAN = regex.compile(r"\b[Ii]m [1-9]\d?$")
_GERMAN_NOUNS = frozenset(
    ("Jahrhundert", "Jh", "Stock", "Kapitel", "Quartal", "Semester", "Bezirk", "Obergeschoss", "Lebensjahr")
)
"""Nouns after `im` and an ordinal; "im 25. Thanks" is English."""
_GERMAN_DAY = regex.compile(r"\b(?:[Aa]m|[Bb]is|[Aa]b|[Ss]eit) [1-9]\d?$")
_GERMAN_DATE = regex.compile(
    r"\b(?:[Aa]m|[Bb]is|[Aa]b|[Ss]eit|[Vv]om|[Zz]um|[Dd]e[rmn]) (?:0?[1-9]|[12]\d|3[01])\.(?:0?[1-9]|1[0-2])$"
)
_SHARED_MONTHS = frozenset(("April", "August", "September", "November"))
_GERMAN_NEXT = regex.compile(r" (\p{L}+)")
_GERMAN_MONTHS = frozenset(("Januar", "Februar", "März", "Mai", "Juni", "Juli", "Oktober", "Dezember"))
"""Months whose names are no English words; before them stands the number of a day, not the end of a sentence."""

_KNOWN = _LEADING | _BEFORE_NUMBERS | _TRAILING | _BEFORE_LOWER_CASE
_ROMAN = regex.compile(r"[IVXLC]{1,6}")
_INITIALS = regex.compile(r"(?:\p{Latin}\.)*[\p{Latin}\p{Cyrillic}\p{Greek}]")
_WAYS = frozenset(("N", "S", "E", "W", "NE", "NW", "SE", "SW"))
_COMPOUND = regex.compile(r"\d-\p{L}{2,4}$")
"""The number and the unit of an adjective, which a noun follows: a 65-in. TV."""
_CODE_NUMBER = regex.compile(
    r"\b(?:model|part|item|serial|order|invoice|reference|policy|account|tracking|batch|lot) no$", regex.IGNORECASE
)
"""The thing whose number has letters: Model No. WH-1000XM5."""
_NEXT = regex.compile(r"""(\s*)["“‘'«(\[*_]{0,4}([\p{L}\p{N}]?\p{L}*)""")
_LONGEST = 24
_LONGEST_WORD = 8
"""Characters of an abbreviation without dots."""


def word_before(text: str, stop: int) -> str:
    """Return the abbreviation that the full stop at `stop` belongs to, or an empty string."""
    start, floor = stop, max(0, stop - _LONGEST)
    blank = text.rfind(" ", floor, stop)
    if blank >= 0 and text[blank + 1 : stop].isalpha():  # by far the most frequent case
        start = floor = blank + 1
    while start > floor and ((char := text[start - 1]) == "." or char.isalpha()):
        start -= 1
    word = text[start:stop]
    dotted = "." in word
    if not word or (len(word) > _LONGEST_WORD and not dotted) or text[start - 1 : start].isnumeric():
        return ""
    key = word.casefold()
    if key in _KNOWN or ((dotted or len(word) == 1) and _INITIALS.fullmatch(word) is not None):
        if key in _CAPITALISED and word.islower() and not (key in _LOWER_TOO or key in _UNITS):
            return ""
        return word
    joint = text[start - 1 : start]
    counted = (
        joint == "/"
        or text[:start].endswith((" per ", " a "))
        or (joint in {" ", "-"} and text[start - 2 : start - 1].isnumeric())
    )
    return word if key in _UNITS and counted else ""


def ends_sentence(text: str, stop: int, *, final: bool = False) -> bool | None:
    """Return whether the full stop at `stop`, before white space, ends a sentence.

    Returns None if later text decides; `final`: there is none.
    """
    word = word_before(text, stop)
    if not word:
        return _after_number(text, stop, final=final)
    follows = _NEXT.match(text, stop + 1)
    blank, after = follows.groups() if follows is not None else ("", "")
    if follows is None or not after:
        if follows is None or follows.end() == len(text):
            return True if final else None
        return _is_blank_line(blank)
    if _is_blank_line(blank):
        return True
    return _before_word(text, stop, word, after, follows.end(), final=final)


def _after_number(text: str, stop: int, *, final: bool) -> bool | None:
    """Return whether a full stop that is no abbreviation's ends a sentence; that of a German ordinal ends none."""
    if not text[stop - 1 : stop].isdecimal():
        return True
    if (dated := _german_date(text, stop, final=final)) is not None:
        return None if dated == "open" else False
    after_article = _GERMAN_ARTICLE.search(text, max(0, stop - 8), stop) is not None
    if not after_article and _SHORT_NUMBER.search(text, max(0, stop - 4), stop) is None:
        return True
    follows = _GERMAN_NEXT.match(text, stop + 1)
    if follows is None:  # a line end, a mark or no text yet
        return None if not final and text[stop + 1 :] in ("", " ") else True
    if after_article:
        return False
    word = follows[1]
    nouns = _GERMAN_MONTHS
    if _IN_GERMAN.search(text, max(0, stop - 8), stop) is not None:
        nouns = _GERMAN_MONTHS | _GERMAN_NOUNS
    elif _GERMAN_DAY.search(text, max(0, stop - 8), stop) is not None:
        nouns = _GERMAN_MONTHS | _SHARED_MONTHS
    if follows.end() == len(text) and not final and any(noun.startswith(word) for noun in nouns):
        return None
    return word not in nouns


def _german_date(text: str, stop: int, *, final: bool) -> str | None:
    """Return "date" if the stop belongs to a date as in `am 24.12. um 18 Uhr`, "open" if later text decides."""
    if _GERMAN_DATE.search(text, max(0, stop - 12), stop) is None:
        return None
    following = text[stop + 1 : stop + 3]
    if len(following) < 2 and not final:
        return "open"
    return "date" if following[:1] == " " and following[1:].islower() else None


def _before_word(text: str, stop: int, word: str, after: str, end: int, *, final: bool) -> bool | None:
    key = word.casefold()
    if key in _LEADING and not (key in _CAPITALISED and word.islower()):
        return False
    if after[0].isnumeric():
        return False
    if after[0].islower():
        # "no. it was" is a sentence in careless writing; a number alone makes "no." an abbreviation
        return key in _BEFORE_NUMBERS and key in _LOWER_TOO and not _INITIALS.fullmatch(word)
    compound = key in _UNITS and _COMPOUND.search(text, max(0, stop - 6), stop) is not None
    if key in _UNITS and after in _WAYS:  # 20 mi. N of the town
        return None if end == len(text) and not final else False
    if (key in _BEFORE_LOWER_CASE or key in _UNITS) and not compound:
        return True
    if key in _BEFORE_NUMBERS and not _INITIALS.fullmatch(word):
        if end == len(text) and not final:
            return None
        if key == "no" and _CODE_NUMBER.search(text, max(0, stop - 16), stop):
            return False
        return key in {"no", "nos"} or not (len(after) == 1 or _ROMAN.fullmatch(after))
    if end == len(text) and len(after) <= LONGEST_STARTER and not final:
        return None
    return after.casefold() in STARTERS and text[end : end + 1] != "."


def _is_blank_line(blank: str) -> bool:
    return blank.count("\n") > 1
