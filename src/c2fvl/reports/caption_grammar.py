"""The grammar of captions: a sentence becomes side, number and zones, and a list of the parts that could not be read.

    sentence  := part (("," | "." | nothing) part)*
    part      := side | count | places
    side      := ("bilateral" | "unilateral" | "no") ["pulmonary" | "lung"] "infection"
    count     := number "infected" ("area" | "areas")           number: "no", zero to twenty, or digits
    places    := place ("and" place)*
    place     := ["all"] height* ["left" | "right"] "lung"      height: upper, middle, lower

A sentence is a caption only if all of it is: a word outside of the grammar ("lower left lung, clear") can turn the
meaning of the rest. The published captions break the grammar in known ways: spaces, letters, glued words, a missing
side, an empty slot of their template. The parser understands these; if a fault leaves the meaning open, the part is not
read.
"""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from c2fvl.reports.zones import HANDS, HEIGHTS, zone_at

NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip

_SYNONYMS = {"higher": "upper", "lungs": "lung", "infections": "infection", "&": "and", "areas": "area"}
_VOCABULARY = frozenset({
    "bilateral", "unilateral", "no", "pulmonary", "infection", "infected", "area", "all", "lung", "and",
    *HEIGHTS, *HANDS, *NUMBER_WORDS, *_SYNONYMS,
})  # fmt: skip
_SEPARATORS = frozenset({",", ";", "."})
_TOKEN = re.compile(r"[,;.](?![0-9])|(?<![0-9])[,;.]|(?:[^\s,;.]|(?<=[0-9])[,;.](?=[0-9]))+")
"""A separator or a word; between digits, comma and point belong to the number, so that 2.5 is not read as 5."""

_PART = re.compile(
    r"(?:and )?(?:"
    r"(?P<side>bilateral|unilateral|no) (?:(?:pulmonary|lung) )?infection "
    r"|(?P<count>\S+) infected area "
    r"|(?P<all>all )?(?P<heights>(?:upper|middle|lower) (?:(?:upper|middle|lower|and) )*)?"
    r"(?:(?P<hand>left|right) |(?(heights)(?<!and )))(?P<lung>lung) )"
)
"""One part of a clause whose words are each followed by a space."""
_ODD_COUNT = re.compile(rf"(?:[\d.,+-]+|(?:{'|'.join(NUMBER_WORDS)}|(?:thir|for|fif|six|seven|eigh|nine)ty)) "
                        rf"(?:(?:{'|'.join(NUMBER_WORDS)}) )?infected area ")  # fmt: skip
"""A clause with a count that is no number of the grammar, such as "2.5 infected areas"; the rest is a caption still."""

_SHORTEST_CORRECTED = 5
"""Slips of one letter are corrected only in words of this length or more; shorter ones have too many neighbours."""
_MAX_WORD = 40
_MAX_DIGITS = 10
_CACHE_SIZE = 4096


@dataclass(frozen=True)
class ParsedCaption:
    """What a caption says, and the parts of it that could not be read."""

    side: str | None
    number: int | None
    zones: frozenset[str]
    unread: tuple[str, ...]


@dataclass(frozen=True)
class _Word:
    text: str
    start: int
    end: int


@dataclass(frozen=True)
class _Place:
    hand: str | None
    heights: tuple[str, ...]


@functools.lru_cache(maxsize=_CACHE_SIZE)
def parse_caption(sentence: str) -> ParsedCaption:
    """Parse a sentence; if some of its words are outside of the grammar, nothing is read and these are `unread`.

    Results are kept, because the captions of a data set repeat and each mirrored sample parses one.
    """
    sides: list[tuple[str, str]] = []
    numbers: list[tuple[int, str]] = []
    places: list[_Place] = []
    unread: list[str] = []
    foreign: list[str] = []
    for clause in _clauses(sentence):
        text = sentence[clause[0].start : clause[-1].end]
        words = [word.text for word in clause]
        parts = _parse_clause(words)
        if parts is None:
            (unread if _ODD_COUNT.fullmatch(" ".join([*words, ""])) else foreign).append(text)
        else:
            sides += [("none" if part["side"] == "no" else part["side"], text) for part in parts if part["side"]]
            numbers += [(number, text) for part in parts if (number := _number(part["count"] or "")) is not None]
            places += [_place(part) for part in parts if part["lung"]]
    if foreign:
        return ParsedCaption(None, None, frozenset(), tuple(dict.fromkeys(foreign)))
    side = sides[0][0] if len({value for value, _ in sides}) == 1 else None
    number = numbers[0][0] if len({value for value, _ in numbers}) == 1 else None
    unread += [text for _, text in sides] if sides and side is None else []
    unread += [text for _, text in numbers] if numbers and number is None else []
    zones, unclear = _zones(side, places)
    return ParsedCaption(side, number, zones, tuple(dict.fromkeys(unread + unclear)))


def _clauses(sentence: str) -> Iterator[list[_Word]]:
    """Split at separators; clauses of heights alone ("upper, middle and lower left lung") join the next one."""
    words: list[_Word] = []
    for match in _TOKEN.finditer(sentence):
        if match[0] in _SEPARATORS:
            if words and (match[0] != "," or not all(word.text in (*HEIGHTS, "and") for word in words)):
                yield words
                words = []
        else:
            words += [_Word(text, match.start(), match.end()) for text in _understand(match[0].lower())]
    if words:
        yield words


def _understand(word: str) -> tuple[str, ...]:
    """Return the words of the vocabulary that a word means: itself, glued words, or the one that is a letter away."""
    if word.isascii() and word.isdigit():
        return (word,)
    if word in _VOCABULARY:
        return (_SYNONYMS.get(word, word),)
    if len(word) > _MAX_WORD or not word.isalpha():  # a mark is no slip: "lung?" is in doubt
        return (word,)
    glued = _unglue(word)
    if glued is not None:
        return glued
    near = {_SYNONYMS.get(known, known) for known in _VOCABULARY if _one_slip(word, known)}
    # No number is corrected: "eighty" and "eighth" are a letter away from "eight".
    return (near.pop(),) if len(near) == 1 and near.isdisjoint(NUMBER_WORDS) else (word,)


def _unglue(word: str) -> tuple[str, ...] | None:
    """Return the words of the vocabulary that are glued in a word ("andall"), or None."""
    if word in _VOCABULARY:
        return (_SYNONYMS.get(word, word),)
    for cut in range(2, len(word) - 1):
        if word[:cut] in _VOCABULARY:
            rest = _unglue(word[cut:])
            if rest is not None:
                return (_SYNONYMS.get(word[:cut], word[:cut]), *rest)
    return None


def _one_slip(word: str, known: str) -> bool:
    """Tell whether one letter is missing, extra or wrong, or two neighbours are exchanged."""
    if len(known) < _SHORTEST_CORRECTED or abs(len(word) - len(known)) > 1:
        return False
    start = 0
    while start < min(len(word), len(known)) and word[start] == known[start]:
        start += 1
    rest, expected = word[start:], known[start:]
    return (
        rest[1:] == expected[1:]
        or rest[1:] == expected
        or rest == expected[1:]
        or (rest[:2] == expected[1::-1] and rest[2:] == expected[2:])
    )


def _parse_clause(words: list[str]) -> list[re.Match[str]] | None:
    """Return the parts of a clause in order, as matches of `_PART`; None if a word belongs to none of them."""
    clause = "".join(f"{word} " for word in words)
    parts: list[re.Match[str]] = []
    while (end := parts[-1].end() if parts else 0) < len(clause):
        part = _PART.match(clause, end)
        if part is None or (part["count"] and _number(part["count"]) is None):
            return None
        parts.append(part)
    return parts


def _number(word: str) -> int | None:
    if word.isascii() and word.isdigit() and len(word) < _MAX_DIGITS:
        return int(word)
    return 0 if word == "no" else NUMBER_WORDS.index(word) if word in NUMBER_WORDS else None


def _place(part: re.Match[str]) -> _Place:
    # "all" counts even in "all lower left lung": the lesion of the only such image covers the whole lung
    heights = HEIGHTS if part["all"] else tuple(word for word in (part["heights"] or "").split() if word != "and")
    return _Place(part["hand"], heights)


def _zones(side: str | None, places: list[_Place]) -> tuple[frozenset[str], list[str]]:
    """Return the zones of the places, each with its hand, and the places that stay unclear."""
    places = list(places)
    # Left comes before right in the template, so of two places the one without a hand is the other one.
    if [place.hand for place in places] == [None, "right"]:
        places[0] = _Place("left", places[0].heights)
    elif [place.hand for place in places] == ["left", None]:
        places[1] = _Place("right", places[1].heights)
    named = {place.hand for place in places if place.heights}
    zones: set[str] = set()
    unclear: list[str] = []
    for place in places:
        # a slot of the template that was left empty: "Unilateral …, left lung and lower right lung"
        empty_slot = side == "unilateral" and not place.heights and len(named) == 1 and place.hand not in named
        if place.hand is not None and place.heights:
            zones.update(zone_at(place.hand, height) for height in place.heights)
        elif not empty_slot:
            unclear.append(" ".join(filter(None, (*place.heights, place.hand, "lung"))))
    return frozenset(zones), unclear
