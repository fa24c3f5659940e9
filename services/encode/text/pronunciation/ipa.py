"""The International Phonetic Alphabet as ARPAbet: the sounds of English, and the nearest ones of other languages."""

from __future__ import annotations

from unicodedata import normalize


def _sounds(table: str) -> dict[str, str]:
    """Read `sign=PHONE` pairs; `+` joins several phones."""
    pairs = (pair.split("=") for pair in table.split())
    return {sign: phones.replace("+", " ") for sign, phones in pairs}


_VOWELS = _sounds(
    """
    aɪ=AY aj=AY aʊ=AW aw=AW ɔɪ=OY ɔj=OY oɪ=OY eɪ=EY ej=EY oʊ=OW ow=OW əʊ=OW ɜr=ER ɜɹ=ER ər=ER əɹ=ER ɝ=ER
    ɚ=ER ɜ=ER ø=ER œ=ER i=IY ɪ=IH ɨ=IH e=EY ɛ=EH æ=AE a=AA ɑ=AA ɐ=AH ʌ=AH ə=AH ɒ=AA ɔ=AO o=OW ʊ=UH u=UW
    ʉ=UW y=UW ɯ=UW
    """
)
_CONSONANTS = _sounds(
    """
    tʃ=CH ʧ=CH dʒ=JH ʤ=JH ts=T+S ʦ=T+S p=P b=B t=T d=D k=K g=G ɡ=G f=F v=V θ=TH ð=DH s=S z=Z ʃ=SH ʒ=ZH
    h=HH ɦ=HH m=M n=N ŋ=NG l=L ɫ=L r=R ɹ=R ɾ=D ʁ=R ʀ=R w=W ʍ=W j=Y x=K χ=K ç=HH q=K c=K ɲ=N+Y ʎ=L+Y β=B
    ɣ=G ɕ=SH ʂ=SH ʐ=ZH ʔ= ɱ=M ɳ=N ɭ=L ʈ=T ɖ=D
    """
)
_STRESSES = {"ˈ": "1", "'": "1", "ˌ": "2"}
_IGNORED = frozenset("ːˑ.͜͡ ‿|ʰʲʷ̩̯̥̬̃̈̚()/[]-")


def to_arpabet(text: str) -> tuple[str, ...] | None:
    """Return ARPAbet phones, with a stress digit on each vowel; None if a sign has no English sound."""
    signs = normalize("NFD", text.strip())
    phones: list[str] = []
    place, stress = 0, "0"
    while place < len(signs):
        sign = signs[place]
        if sign in _STRESSES:
            stress = _STRESSES[sign]
        elif sign not in _IGNORED:
            length, phone, vowel = _longest(signs, place)
            if not length:
                return None
            if vowel:
                phones.append(phone + stress)
                stress = "0"
            else:
                phones += phone.split()
            place += length - 1
        place += 1
    if len(vowels := [i for i, phone in enumerate(phones) if phone[-1].isdigit()]) == 1:
        phones[vowels[0]] = phones[vowels[0]][:-1] + "1"  # a word of one syllable is stressed
    return tuple(phones) or None


def _longest(signs: str, place: int) -> tuple[int, str, bool]:
    # A tie joins two signs: t͡ʃ. Signs between them that are ignored do not count.
    pair = signs[place : place + 1] + signs[place + 1 : place + 3].lstrip("͜͡")[:1]
    skipped = 3 if signs[place + 1 : place + 2] in ("͜", "͡") else 2
    for text, length in ((pair, skipped), (signs[place], 1)):
        if text in _VOWELS:
            return length, _VOWELS[text], True
        if text in _CONSONANTS:
            return length, _CONSONANTS[text], False
    return 0, "", False
