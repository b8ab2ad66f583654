"""Read free radiology sentences by rules, for the network that takes findings one by one. No torch.

The reader says what it made of each phrase. Uncertain findings, earlier images and contradictions count as not known.
Phrases on anything but opacity or infection of the lung are not understood and name no zone. A sentence that can be
meant in two ways is not read. docs/reports.md has the rules.

A text is cut into sentences, a sentence into parts at commas, "and", "with", "no" …, and parts that belong together are
joined to statements: present, absent or clear, somewhere or anywhere. All statements together give the result. Every
step goes through the text once.
"""

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from c2fvl.reports.free_text import terms
from c2fvl.reports.free_text.places import Places, settle_places
from c2fvl.reports.free_text.statements import Statement, TextContent, read_statements
from c2fvl.reports.free_text.terms import BOTH
from c2fvl.reports.free_text.words import Part, find_words, quote, shortened
from c2fvl.reports.report import MAX_LESIONS
from c2fvl.reports.zones import OTHER_HAND, ZONES, check_orientation, hand_of, hands_of, mirrored, zones_of

__all__ = ["MAX_CHARACTERS", "ParsedText", "read_free_text"]

MAX_CHARACTERS = 20_000
"""A longer text is refused: it is no report of one image."""
MAX_STATEMENTS = 200
"""A text of more statements on the lungs is refused: it is no report of one image."""
_CACHE_SIZE = 512

_ENGLISH = frozenset({"the", "is", "are", "in", "of", "at", "and", "on", "with", "there", "no", "to", "both"})
_EXCHANGED = re.compile(
    r"\b(?:mirrored|mirror[- ]image|flipped|swapped|interchanged|mislabell?ed|wrong[- ]side|left is right|right is left"
    r"|(?:sides?|markers?|left and right|label\w*)\b[^.;]{0,40}\b(?:reversed|exchanged|incorrect(?:ly)?|wrong(?:ly)?)"
    r"|(?:reversed|incorrect(?:ly)?|wrong(?:ly)?)\b[^.;]{0,20}\b(?:label\w*|markers?|sides?))\b",
    re.IGNORECASE,
)
"""The text says that left and right, or their markers, are exchanged on the image."""
_SIDES_IN_DOUBT = "the text says that left and right are exchanged on the image; write the sides as they are"
_NOTHING = "no side and no zone could be read"
_CONTRADICTED = "no side and no zone could be read: the text contradicts itself"


@dataclass(frozen=True)
class ParsedText:
    """What could be read of a free text; zones are those of `zones.ZONES`, in image orientation."""

    zones: frozenset[str] = frozenset()
    """Zones named as infected."""
    free: frozenset[str] = frozenset()
    """Zones said to be free."""
    side: str | None = None
    """"bilateral", "unilateral", "none", or None if it does not follow."""
    number: int | None = None
    """Number of lesions, None if the text gives none."""
    understood: tuple[str, ...] = ()
    """The phrases used."""
    uncertain: tuple[str, ...] = ()
    """Phrases on the lungs that leave open what is there ("possible"), or are about another image ("resolved")."""
    not_understood: tuple[str, ...] = ()
    """The other phrases: other findings, and what no rule fits."""
    contradictions: tuple[str, ...] = ()
    """Statements that cannot all be true, in the words of the text; they count as not known."""
    refusal: str = ""
    """Why nothing at all was read, "" if something was."""


@functools.lru_cache(maxsize=_CACHE_SIZE)
def read_free_text(text: str, orientation: str = "image") -> ParsedText:
    """Read a free text as far as the rules go; `orientation`, "image" or "patient", says whose left it means.

    Never raises for any text: one that cannot be read has a `refusal`. Raises `ValueError` for another orientation.
    """
    check_orientation(orientation)
    if not text.strip():
        return ParsedText(refusal="there is no report: the text is empty")
    if len(text) > MAX_CHARACTERS:
        return ParsedText(
            refusal=f"the text has {len(text)} characters, more than {MAX_CHARACTERS}; give the sentences on the lungs"
        )
    words = find_words(text)
    organ = next((word.text.lower() for word in words if word.term.kind == terms.ORGAN), "")
    tokens = {token for word in words for token in word.text.lower().split()}
    if organ and not tokens & terms.LUNG_EVIDENCE:
        refusal = f"the text is about another organ ({organ}), not about the lungs"
        return ParsedText(not_understood=(shortened(text),), refusal=refusal)
    if any(word.term.kind == terms.FOREIGN for word in words) and not tokens & _ENGLISH:
        return ParsedText(not_understood=(shortened(text),), refusal=_NOTHING)
    if _EXCHANGED.search(text):
        return ParsedText(not_understood=(shortened(text),), refusal=_SIDES_IN_DOUBT)
    parsed = _resolve(read_statements(text, words))
    if parsed.refusal and not (parsed.uncertain or parsed.not_understood or parsed.contradictions):
        parsed = replace(parsed, not_understood=(shortened(text),))
    if orientation == "image":
        return parsed
    return replace(parsed, zones=frozenset(map(mirrored, parsed.zones)), free=frozenset(map(mirrored, parsed.free)))


@dataclass
class _Claim:
    """A statement with its places settled."""

    statement: Statement
    phrase: str
    zones: set[str]
    hands: set[str]
    findings: set[str]
    is_narrow: bool = False


def _resolve(content: TextContent) -> ParsedText:
    """Weigh all statements against each other."""
    if len(content.statements) > MAX_STATEMENTS:
        return ParsedText(
            refusal=f"the text makes {len(content.statements)} statements, more than {MAX_STATEMENTS}; give the "
            "sentences on the lungs"
        )
    present, absent = _claims(content)
    contradictions: list[str] = []
    contradicted: set[str] = set()
    free: set[str] = set()
    for claim in absent:
        free |= _freed(claim, present, contradictions, contradicted)
    named = {zone for claim in present for zone in claim.zones} - contradicted - content.gone_zones
    hands = hands_of(named) | {hand for claim in present for hand in claim.hands}
    free -= named | contradicted | content.open_zones
    side = _side(present, hands, free, contradictions)
    if side == "unilateral" and len(hands) == 1 and any(claim.statement.has(terms.UNILATERAL) for claim in present):
        free |= set(zones_of(OTHER_HAND[next(iter(hands))])) - content.open_zones - contradicted
    number = _number(present, content) if not contradictions else None
    used = [claim for claim in (*present, *absent) if claim.phrase not in content.not_understood]
    is_nothing = side is None and number is None and not named and not free
    if is_nothing and not contradictions:
        content.not_understood += [claim.phrase for claim in used]
        used = []
    return ParsedText(
        zones=frozenset(named),
        free=frozenset(free),
        side=side,
        number=number,
        understood=_distinct(claim.phrase for claim in used),
        uncertain=_distinct(content.uncertain),
        not_understood=_distinct(content.not_understood),
        contradictions=_distinct(contradictions),
        refusal=(_CONTRADICTED if contradictions else _NOTHING) if is_nothing else "",
    )


def _distinct(phrases: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(phrases))


def _claims(content: TextContent) -> tuple[list[_Claim], list[_Claim]]:
    """Settle the places; statements without a place that can be settled are noted as not understood."""
    present: list[_Claim] = []
    absent: list[_Claim] = []
    for statement in content.statements:
        phrase = quote(content.text, statement.words)
        places = settle_places(statement.parts)
        claim = _Claim(statement, phrase, set(places.zones), set(places.hands), statement.findings())
        if statement.kind == "present":
            if not claim.zones and _is_whole(statement):
                claim.zones, claim.hands = {zone for hand in claim.hands for zone in zones_of(hand)}, set()
            present.append(claim)
            if places.is_unclear and claim.zones:
                content.uncertain.append(phrase)
            if not (claim.zones or claim.hands or statement.has(terms.UNILATERAL)):
                content.not_understood.append(phrase)
        elif statement.kind in ("absent", "clear") and _deny(claim, places, content):
            absent.append(claim)
    return present, absent


def _is_whole(statement: Statement) -> bool:
    """Tell whether a finding takes the whole lung that is named: a whiteout, the opacification of a hemithorax."""
    texts = [word.text.lower().replace("-", " ") for word in statement.words]
    if sum(bool(part.findings()) for part in statement.parts) != 1:
        return False
    if terms.WHITED & set(texts):
        return True
    told = [text for text in texts if text not in ("the", "of", "left", "right", "sided")]
    pair = ["opacification", "hemithorax"]
    is_pair = any(told[index : index + 2] == pair for index in range(len(told)))
    return is_pair and not statement.has(terms.NARROW) and not {"partial", "partially", "hazy", "some"} & set(texts)


def _deny(claim: _Claim, places: Places, content: TextContent) -> bool:
    """Settle which zones a denial frees; False if it frees none."""
    statement = claim.statement
    is_spared = statement.has(terms.SPARED)
    is_absent, is_clear = statement.kind == "absent", statement.kind == "clear"
    if is_absent and not claim.findings and not is_spared:
        content.not_understood.append(claim.phrase)
        return False
    is_part = bool(terms.PARTIAL & {word.text.lower() for word in statement.words})
    limited = is_part or any(part.has(terms.LIMIT) and part.findings() for part in statement.parts)
    if is_absent and not statement.num_places:
        limited |= bool(terms.RELATIVE & {word.text.lower() for word in statement.words})
    is_left_over = is_absent and statement.has(terms.ELSEWHERE)
    limited |= is_left_over and all(other.kind != "present" for other in content.statements)
    half = is_absent and not is_spared and any(word.term.place.is_bilateral for word in statement.words)
    if limited or half or statement.has(terms.UNILATERAL):
        content.uncertain.append(claim.phrase)
        return False
    num_places = statement.num_places
    is_anywhere = not num_places and (is_absent or statement.has(terms.EXAM) or statement.is_rest)
    has_noun = any(word.term.place.is_noun for word in statement.words)
    is_vague = is_clear and ((num_places and not has_noun) or statement.has(terms.OTHER) or statement.has(terms.COUNT))
    zones = {zone for hand in places.hands for zone in zones_of(hand)} | places.zones
    if places.lungs or places.lung or (is_anywhere and not is_spared):
        zones |= set(ZONES)
    if not zones or places.is_unclear or is_vague or (places.lung and (is_clear or is_spared)):
        content.not_understood.append(claim.phrase)
        return False
    claim.zones, claim.hands = zones, set()
    claim.is_narrow = statement.has(terms.NARROW)
    if is_clear or is_spared:
        claim.findings = {"infection"}
    return True


def _freed(claim: _Claim, present: Sequence[_Claim], contradictions: list[str], contradicted: set[str]) -> set[str]:
    """Return the zones that a denial frees, without those that a contradiction leaves open, which it notes."""
    free = set(claim.zones)
    is_anywhere = claim.zones == set(ZONES)
    for other in present:
        touched = other.zones & claim.zones
        lungs = {hand for hand in other.hands if set(zones_of(hand)) <= claim.zones}
        is_unplaced = not (other.zones or other.hands)
        is_broad = not claim.is_narrow and bool({"infection", "opacity"} & claim.findings)
        is_same = not claim.is_narrow and bool(other.findings & claim.findings)
        if claim.statement.has(terms.SPARED):
            other.zones -= claim.zones
        elif claim.statement.is_rest or not (is_broad or is_same):
            free -= other.zones
            free -= {zone for hand in other.hands for zone in zones_of(hand)}
            if is_unplaced or (not claim.statement.is_rest and is_anywhere):
                free = set()
        elif touched or lungs or (is_unplaced and is_anywhere):
            concerned = hands_of(touched) | lungs or set(BOTH)
            free = {zone for zone in free if hand_of(zone) not in concerned}
            contradicted |= touched
            other.hands -= lungs
            contradictions.append(f"{other.phrase!r} and {claim.phrase!r}")
    return free


def _side(present: Sequence[_Claim], hands: set[str], free: set[str], contradictions: list[str]) -> str | None:
    one_sided = any(claim.statement.has(terms.UNILATERAL) for claim in present)
    if one_sided and hands == BOTH:
        contradictions.append("unilateral, with both lungs named")
    if contradictions:
        return None
    if hands == BOTH:
        return "bilateral"
    if one_sided or (len(hands) == 1 and set(zones_of(OTHER_HAND[next(iter(hands))])) <= free):
        return "unilateral"
    return "none" if not present and free == set(ZONES) else None


def _number(present: Sequence[_Claim], content: TextContent) -> int | None:
    """Return the number of lesions, if one is given that counts all that is present."""
    counts = [count for claim in present for part in claim.statement.parts for count in _counts(part)]
    return counts[0] if len(counts) == len(present) == 1 and counts[0] > 0 and not content.open_zones else None


def _counts(part: Part) -> list[int]:
    """Return the numbers of a part that count findings; -1 for one that is uncertain or counts something else."""
    counts: list[int] = []
    for index, word in enumerate(part.words):
        if word.term.kind != terms.COUNT:
            continue
        before = part.words[index - 1].text.lower() if index else ""
        behind = index + 1
        while behind < len(part.words) and part.words[behind].text.lower() in terms.COUNT_ADJECTIVES:
            behind += 1
        kind = part.words[behind].term.kind if behind < len(part.words) else ""
        counted = part.words[behind].text.lower() if behind < len(part.words) else ""
        number = int(word.term.value)
        is_many = counted == "foci" or (counted.endswith("s") and counted != "focus")
        is_count = kind in (terms.FINDING, terms.COUNTED) and is_many == (number > 1)  # not "day 3 opacity"
        is_open = before in terms.COUNT_SPOILERS or number > MAX_LESIONS
        counts.append(number if is_count and not is_open else -1)
    return counts
