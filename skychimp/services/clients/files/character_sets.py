"""Judge in which character set a text is written, by whether its words look like words; pure.

A text that is valid UTF-8, or begins with a byte order mark, needs no judging. Otherwise it is decoded in each likely
character set. In a wrong one, words have symbols or capitals in the middle, characters of two alphabets, accents that
no language has together, or rare characters where common ones should be. All of these cost bits, as in a code that is
made for real words: a reading that is ten bits cheaper than another is a thousand times as likely.
"""

import codecs
import functools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
COMMON = (
    "windows-1251", "koi8-u", "cp866", "iso-8859-5",
    "windows-1252", "iso-8859-15", "mac-roman",
    "windows-1250", "iso-8859-2", "windows-1254", "windows-1257", "windows-1253",
)  # fmt: skip
"""The character sets that are always judged. Of those that give the same text, the first one counts."""

_MARGIN = 10.0  # bits that the best reading must be ahead of another one to be certain
_IMPLAUSIBLE_COST = 20.0  # bits for what can't be a word
_MOST_IMPLAUSIBLE = 0.1  # share of the words: abbreviations, typing errors
_LANGUAGE_COST = 6.0  # bits for each language whose accents are in the text
_MARK_COST = 6.0  # bits for a quotation mark or the like that touches a word
_ACCENT_COST = 5.0  # bits for a character with an accent
_CONSONANT_COST = 4.0  # bits for each consonant after two others
_MAX_WORDS = 2_000
_MAX_LENGTH = 50  # of a word

_CYRILLIC_LANGUAGES = (
    "абвгдеёжзийклмнопрстуфхцчшщъыьэюя",  # Russian, Bulgarian
    "абвгґдеєжзиіїйклмнопрстуфхцчшщьюя",  # Ukrainian
    "абвгдеёжзійклмнопрстуўфхцчшыьэюя",  # Belarusian
    "абвгдђежзијклљмнњопрстћуфхцчџш",  # Serbian
    "абвгдѓежзѕијклљмнњопрстќуфхцчџш",  # Macedonian
)
_CYRILLIC_BY_FREQUENCY = "оаиенітрвслкмдпуяьзгбчйхїжшюєцщыэфёўґъ"
_CYRILLIC_VOWELS = "аеёиіїоуыэюяєў"
_LATIN_LANGUAGES = (
    "äöüßé",  # German
    "àâæçéèêëîïôœùûüÿ",  # French
    "áéíñóúüç",  # Spanish, with the ç of Catalan names
    "àáâãçéêíóôõúü",  # Portuguese
    "àèéìíîòóùú",  # Italian
    "àçèéíïòóúü",  # Catalan
    "áéèëïíóöúü",  # Dutch
    "åäöéü",  # Swedish, Finnish
    "åæøéäöü",  # Danish, Norwegian
    "äöüõšž",  # Estonian
    "ąćęłńóśźż",  # Polish
    "áäčďéěíĺľňóôŕřšťúůýž",  # Czech, Slovak
    "áéíóöőúüű",  # Hungarian
    "čćđšž",  # Croatian, Serbian, Slovene
    "ăâîșțşţ",  # Romanian
    "çğıöşüâîû",  # Turkish
    "ąčęėįšųūž",  # Lithuanian
    "āčēģīķļņšūž",  # Latvian
)
_LATIN_VOWELS = "aeiouyàáâãäåæèéêëìíîïòóôõöøùúûüýÿœąęăāēīěıůűőųūėį"
_CONSONANTS = re.compile(f"[^{_LATIN_VOWELS}]{{3,}}")
_MISPLACED = re.compile(f"ñ(?![{_LATIN_VOWELS}])|[ńśź](?=[{_LATIN_VOWELS}])")
"""The Spanish consonant stands before vowels, the Polish ones never do."""
_SMALL_ALPHABETS = {"GREEK", "ARMENIAN", "HEBREW", "ARABIC", "GEORGIAN", "THAI"}
_IDEOGRAPHS = {"CJK", "HIRAGANA", "KATAKANA", "HANGUL"}

_AROUND_WORDS = "\u00a0\u00ad«»“”„‘’‚‹›–—…•·№§©®™°€£"
_WORD = re.compile(r"[A-Za-z\x80-\U0010ffff]+")
_CASES = re.compile(r"l+|[AU]+|[AU]l*(Al+)*")
"""word, WORD, Word, McWord: A is a capital of ASCII, U another one, l any other character."""


class Reading(NamedTuple):
    """A text in one character set. `bits` is what its words cost: the less, the more likely the reading."""

    encoding: str
    text: str
    bits: float
    is_plausible: bool


def find_byte_order_mark(sample: bytes) -> str | None:
    """Return the encoding that a byte order mark at the start of a file stands for, if it has one."""
    return next((encoding for mark, encoding in BYTE_ORDER_MARKS.items() if sample.startswith(mark)), None)


def likely_readings(sample: bytes, encodings: Iterable[str]) -> Sequence[Reading]:
    """Return the readings of a text that is no UTF-8 which are plausible and not far behind the best, the best first.

    One means that it is certain; none, that the text is in none of these encodings, or no text.
    """
    readings = all_readings(sample, encodings)
    plausible = [reading for reading in readings if reading.is_plausible]
    return [reading for reading in plausible if reading.bits < plausible[0].bits + _MARGIN]


def all_readings(sample: bytes, encodings: Iterable[str]) -> Sequence[Reading]:
    """Return the different readings of a text, the best first."""
    readings: dict[tuple[str, ...], Reading] = {}
    for encoding in encodings:
        text = sample.decode(encoding, errors="replace")
        words = tuple(islice(_words(text), _MAX_WORDS))
        if words not in readings:
            readings[words] = _judge(encoding, text, words)
    return sorted(readings.values(), key=lambda reading: reading.bits)


def _judge(encoding: str, text: str, words: Sequence[str]) -> Reading:
    costs = {word: _cost(word) for word in set(words)}
    plausible = [(word, cost) for word in words if (cost := costs[word]) is not None]
    implausible = len(words) - len(plausible)
    bits = _IMPLAUSIBLE_COST * implausible + sum(cost for _, cost in plausible)
    bits += _LANGUAGE_COST * _count_languages(word for word, _ in plausible)
    return Reading(encoding, text, bits, bool(words) and implausible <= _MOST_IMPLAUSIBLE * len(words))


def _words(text: str) -> Iterator[str]:
    """Yield the words of a text that have other characters than those of ASCII, with the marks that touch them."""
    return (word for word in _WORD.findall(text) if not word.isascii() and word not in _AROUND_WORDS)


def _cost(word: str) -> float | None:
    """Return how many bits a word costs, None if it can't be a word."""
    bare = word[word[0] in _AROUND_WORDS : len(word) - (word[-1] in _AROUND_WORDS)]
    parts = bare.split("’")
    bits = _MARK_COST * (len(word) - len(bare) + len(parts) - 1)
    for part in parts:
        if not part.isascii():
            cost = _part_cost(part)
            if cost is None:
                return None
            bits += cost
    return bits


def _part_cost(word: str) -> float | None:
    if len(word) > _MAX_LENGTH or not word.isalpha() or not _CASES.fullmatch("".join(map(_case, word))):
        return None
    scripts = {_script(character) for character in word}
    if scripts == {"CYRILLIC"}:
        return _cyrillic_cost(word.lower())
    if scripts == {"LATIN"}:
        return _latin_cost(word.replace("İ", "I").lower())
    if scripts <= _IDEOGRAPHS:
        return 14.0 * len(word)
    return 7.0 * len(word) if len(scripts) == 1 and scripts <= _SMALL_ALPHABETS else None


@functools.cache
def _script(character: str) -> str:
    return unicodedata.name(character, "").partition(" ")[0]


def _case(character: str) -> str:
    return "l" if not character.isupper() else "A" if character.isascii() else "U"


def _cyrillic_cost(word: str) -> float | None:
    has_vowel = len(word) <= 3 or not set(word).isdisjoint(_CYRILLIC_VOWELS)
    if not has_vowel or word[0] in "ъь" or not _is_in_one_of(word, _CYRILLIC_LANGUAGES):
        return None
    return sum(3 + 0.2 * (_CYRILLIC_BY_FREQUENCY + character).index(character) for character in word)


def _latin_cost(word: str) -> float | None:
    accented = _accented(word)
    if len(word) > 1 and len(accented) > 0.75 * len(word):
        return None
    if not _is_in_one_of(accented, _LATIN_LANGUAGES) or _MISPLACED.search(word):
        return None
    long_runs = sum(len(run) - 2 for run in _CONSONANTS.findall(word))
    return _ACCENT_COST * len(accented) + _CONSONANT_COST * long_runs


def _count_languages(words: Iterable[str]) -> int:
    """Return how many languages it takes, about, to have the accents of all these words."""
    left = {frozenset(_accented(word.lower())) for word in words}
    number = 0
    while left:
        smaller = min(({each for each in left if not each <= set(language)} for language in _LATIN_LANGUAGES), key=len)
        if len(smaller) == len(left):
            break
        left = smaller
        number += 1
    return number


def _accented(word: str) -> str:
    return "".join(character for character in word if not character.isascii() and character.isalpha())


def _is_in_one_of(characters: Iterable[str], alphabets: Iterable[str]) -> bool:
    return any(set(characters) <= set(alphabet) for alphabet in alphabets)
