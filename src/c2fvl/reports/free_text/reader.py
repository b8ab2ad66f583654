"""A lenient reader of free radiology sentences, for the network that takes findings one by one. No torch.

It reads by rules and says what it made of each phrase. What is uncertain, tells of an earlier film, or contradicts
itself is not known; what is no opacity or infection of the lung is not understood and names no zone. Where a sentence
could be meant in two ways, it is not read. docs/reports.md has the rules.

A text is cut into sentences, a sentence into parts at commas, "and", "with", "no" …, and parts that belong together
are joined to statements: present, absent or clear, somewhere or anywhere. All statements together give the reading.
Every step goes through the text once.
"""

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from c2fvl.reports.free_text import terms
from c2fvl.reports.free_text.terms import BOTH, HEIGHTS, LEFT, RIGHT, Place, Term
from c2fvl.reports.report import MAX_LESIONS
from c2fvl.reports.zones import ORIENTATIONS, ZONES

__all__ = ["MAX_CHARACTERS", "ParsedText", "read_free_text"]

MAX_CHARACTERS = 20_000
"""A longer text is refused: it is no report of one film."""

_KEPT_READINGS = 512
MAX_PARTS = 100
"""A sentence of more parts is not read: no report has one, and comparing parts would take long."""
MAX_STATEMENTS = 200
"""A text of more statements on the lungs is refused: it is no report of one film."""

_TOKEN = re.compile(r"[^\W\d_]\w*(?:['’][^\W\d_]+)?|\d+(?:[.,]\d+)*\w*|\n[^\S\n]*|[^\w\s]|_")
_SENTENCE_ENDS = frozenset(".;!?")
_COMMAS = frozenset(",():–—")
_BULLETS = frozenset("-*•")
_OPEN_ENDS = frozenset({
    "a", "an", "and", "at", "both", "evidence", "for", "from", "in", "is", "are", "left", "no", "of", "on", "or",
    "right", "the", "there", "to", "upper", "lower", "mid", "middle", "with", "without",
})  # fmt: skip
"""Words after which a sentence goes on in the next line, however that begins."""
_FINDINGS_HEADERS = frozenset(
    {"findings", "finding", "impression", "conclusion", "report", "result", "results", "opinion"}
)
_ENGLISH = frozenset({"the", "is", "are", "in", "of", "at", "and", "on", "with", "there", "no", "to", "both"})
_OTHER_HAND = {LEFT: RIGHT, RIGHT: LEFT}


@dataclass(frozen=True)
class ParsedText:
    """What could be read of a free text; zones are those of `report.ZONES`, in the viewer's frame."""

    zones: frozenset[str] = frozenset()
    """Zones named as infected."""
    free: frozenset[str] = frozenset()
    """Zones said to be free."""
    side: str | None = None
    """"bilateral", "unilateral", "none", or None where it does not follow."""
    number: int | None = None
    """Infected areas, None where no count is said."""
    understood: tuple[str, ...] = ()
    """The phrases used."""
    uncertain: tuple[str, ...] = ()
    """Phrases on the lungs that leave open what is there ("possible"), or tell of another film ("resolved")."""
    not_understood: tuple[str, ...] = ()
    """The other phrases: other findings, and what no rule fits."""
    contradictions: tuple[str, ...] = ()
    """What cannot all be true, in the words of the text; it counts as not known."""
    refusal: str = ""
    """Why nothing at all was read, "" where something was."""


@functools.lru_cache(maxsize=_KEPT_READINGS)
def read_free_text(text: str, orientation: str = "image") -> ParsedText:
    """Read a free text as far as the rules go; `frame`, "image" or "patient", says whose left it means.

    Never raises for any text: what cannot be read has `refusal`. Raises `ValueError` for another frame.
    """
    if orientation not in ORIENTATIONS:
        raise ValueError(f"the frame of a report is {orientation!r}; expected {' or '.join(ORIENTATIONS)}")
    if not text.strip():
        return ParsedText(refusal="there is no report: the text is empty")
    if len(text) > MAX_CHARACTERS:
        return ParsedText(
            refusal=f"the text has {len(text)} characters, more than {MAX_CHARACTERS}; give the sentences on the lungs"
        )
    words = _understand(text)
    organ = next((word.text.lower() for word in words if word.term.kind == terms.ORGAN), "")
    spoken = {part for word in words for part in word.text.lower().split()}
    if organ and not spoken & terms.LUNG_EVIDENCE:
        return ParsedText(
            not_understood=(_short(text),), refusal=f"the text is about another organ ({organ}), not about the lungs"
        )
    if any(word.term.kind == terms.FOREIGN for word in words) and not spoken & _ENGLISH:
        return ParsedText(not_understood=(_short(text),), refusal=_NOTHING)
    found = _resolve(_told(text, words))
    if found.refusal and not (found.uncertain or found.not_understood or found.contradictions):
        found = replace(found, not_understood=(_short(text),))
    return _exchanged(found) if orientation == "patient" else found


# ---- words


@dataclass(frozen=True)
class _Word:
    text: str
    start: int
    end: int
    term: Term


_NO_TERM = Term("")
_BREAK = Term("break")
_COMMA = Term("comma")
_END = Term("end")


def _understand(text: str) -> list[_Word]:
    """Return the words, marks and fixed phrases of a text in order, each with its meaning."""
    tokens = [match for match in _TOKEN.finditer(text) if match[0] != "-" or _is_dash(text, match.start())]
    found: list[_Word] = []
    place = 0
    while place < len(tokens):
        length, term = _longest(tokens, place)
        last = tokens[place + length - 1]
        found.append(_Word(text[tokens[place].start() : last.end()], tokens[place].start(), last.end(), term))
        place += length
    return found


def _is_dash(text: str, place: int) -> bool:
    """Tell a dash between words from the hyphen within one."""
    return text[place - 1 : place].isspace() or text[place + 1 : place + 2].isspace()


def _longest(tokens: Sequence[re.Match[str]], place: int) -> tuple[int, Term]:
    first = tokens[place][0]
    if first in ("L", "R"):  # small letters are too often something else
        is_amount = place > 0 and tokens[place - 1][0][0].isdigit()
        hands = frozenset({LEFT if first == "L" else RIGHT})
        return 1, _NO_TERM if is_amount else Term(terms.PLACE, place=Place(hands))
    if first[0] == "\n":
        return 1, _BREAK
    key: list[str] = []
    best = (1, _NO_TERM)
    for length, token in enumerate(tokens[place : place + terms.LONGEST_PHRASE + 1], start=1):
        if token[0][0] == "\n":
            continue  # a phrase may go over the end of a line
        key.append(token[0].lower().replace("’", "'"))
        term = terms.TERMS.get(tuple(key))
        if term is not None:
            best = (length, term)
    if best[1] is _NO_TERM:
        is_query = first == "?" and place + 1 < len(tokens) and tokens[place + 1].start() == tokens[place].end()
        if first in _SENTENCE_ENDS and not is_query:
            return 1, _END
        if first in _COMMAS or first == "-":
            return 1, _COMMA
        if first[0].isdigit() and first.isascii() and first.isdigit() and len(first) < 3:
            return 1, Term(terms.COUNT, str(int(first)))
    return best


def _sentences(words: Sequence[_Word]) -> Iterator[list[_Word]]:
    """Cut at full stops, at blank lines, and at lines that begin something new; an unclear end of line is a comma."""
    sentence: list[_Word] = []
    for place, word in enumerate(words):
        if word.term is _END:
            if sentence:
                yield [*sentence, word] if word.text == "?" else sentence
            sentence = []
        elif word.term is not _BREAK:
            sentence.append(word)
        elif sentence:
            following = words[place + 1] if place + 1 < len(words) else None
            if sentence[-1].text.lower().split()[-1] in _OPEN_ENDS:
                continue
            if following is None or following.term is _BREAK or _begins(following.text):
                yield sentence
                sentence = []
            else:
                sentence.append(_Word("", word.start, word.start, _COMMA))
    if sentence:
        yield sentence


def _begins(word: str) -> bool:
    return word[0] in _BULLETS or (word[0].isupper() and word[1:2].islower())


# ---- parts


@dataclass
class _Part:
    """A stretch of a sentence between two joints."""

    lead: str
    """What stands before it: "" (the sentence's begin), "comma", "colon", "and", "or", "but", "with", "negation"."""
    words: list[_Word] = field(default_factory=list)

    def kinds(self) -> set[str]:
        return {word.term.kind for word in self.words}

    def has(self, kind: str, value: str | None = None) -> bool:
        return any(word.term.kind == kind and value in (None, word.term.value) for word in self.words)

    @property
    def kind(self) -> str:
        """One of "present", "absent", "clear", "other", "place", ""."""
        kinds = self.kinds()
        if terms.ORGAN in kinds:
            return "other"
        if terms.NEGATION in kinds or terms.SPARED in kinds or (terms.DENIAL in kinds and self.findings()):
            return "absent"
        if self.findings():
            return "unclear" if terms.CLEAR in kinds else "present"
        if terms.CLEAR in kinds:
            return "clear"
        if terms.OTHER in kinds or terms.DENIAL in kinds or terms.ABNORMALITY in kinds:
            return "other"
        return "place" if terms.PLACE in kinds else ""

    def findings(self) -> set[str]:
        """Return the classes of findings; an abnormality counts where it is denied, and of the lungs."""
        found = {word.term.value for word in self.words if word.term.kind == terms.FINDING}
        is_denied = self.has(terms.NEGATION) or self.has(terms.DENIAL)
        is_lung = self.has(terms.LUNG_WORD) or self.has(terms.EXAM) or any(w.term.place.is_noun for w in self.words)
        if self.has(terms.ABNORMALITY) and is_denied and is_lung and not self.has(terms.OTHER):
            found.add("infection")
        return found

    def places(self) -> list[_Word]:
        """Return the words of place that may belong to a finding, not to something else that is named."""
        other = [place for place, word in enumerate(self.words) if word.term.kind in (terms.OTHER, terms.ORGAN)]
        if not other:
            found = self.words
        elif not self.findings() or other[0] == 0:
            found = []
        else:
            end = other[0]
            while end and self.words[end - 1].term.kind == terms.PLACE:  # "left" of "left effusion"
                end -= 1
            found = self.words[:end]
        if self.has(terms.COMPARISON):  # "left more than right" names no place
            behind = [*found[1:], None]
            found = [
                word
                for word, following in zip(found, behind, strict=False)
                if not _is_bare_hand(word.term.place) or (following and following.term.kind == terms.PLACE)
            ]
        return [word for word in found if word.term.kind == terms.PLACE]

    @property
    def num_places(self) -> int:
        return sum(word.term.kind == terms.PLACE for word in self.words)


def _is_bare_hand(place: Place) -> bool:
    return bool(place.hands) and not place.heights and not place.is_noun and not place.is_bilateral


_JOINTS = {terms.AND: "and", terms.OR: "or", terms.CONTRAST: "but", terms.WITH: "with", terms.EXCEPT: "but",
           "comma": "comma"}  # fmt: skip


def _parts(sentence: Sequence[_Word]) -> list[_Part]:
    """Cut a sentence at its joints, and before each negation."""
    found = [_Part("")]
    for word in sentence:
        joint = _JOINTS.get(word.term.kind)
        if joint is not None:
            lead = "colon" if word.text == ":" else joint
            if found[-1].words:
                found.append(_Part(lead))
            elif joint != "comma" or not found[-1].lead:
                found[-1].lead = lead if len(found) > 1 else ""  # ", and" is an and
        else:
            if word.term.kind in (terms.NEGATION, terms.SPARED) and any(
                earlier.term.kind not in ("", terms.FILLER, terms.SHOWS) for earlier in found[-1].words
            ):
                found.append(_Part("negation"))
            found[-1].words.append(word)
    return [part for part in found if part.words]


# ---- statements


@dataclass
class _Statement:
    """Parts that say one thing."""

    kind: str
    parts: list[_Part]
    is_rest: bool = False
    """Tells of what other statements leave over: "otherwise clear"."""
    is_open: bool = True
    """Whether a list that it began may go on."""

    def findings(self) -> set[str]:
        return {finding for part in self.parts for finding in part.findings()}

    def has(self, kind: str) -> bool:
        return any(part.has(kind) for part in self.parts)

    @property
    def num_places(self) -> int:
        return sum(part.num_places for part in self.parts)

    @property
    def start(self) -> int:
        return self.parts[0].words[0].start

    @property
    def end(self) -> int:
        return self.parts[-1].words[-1].end


@dataclass
class _Told:
    """All that a text says, statement by statement."""

    text: str
    statements: list[_Statement] = field(default_factory=list)
    doubts: list[frozenset[tuple[str, str]]] = field(default_factory=list)
    """Places of which it is left open whether anything is there; an empty set is anywhere."""
    uncertain: list[str] = field(default_factory=list)
    not_understood: list[str] = field(default_factory=list)
    is_history: bool = False
    """Whether the sentence is in what was known before the film; a question there leaves nothing open."""


def _told(text: str, words: Sequence[_Word]) -> _Told:
    told = _Told(text)
    for sentence in _sentences(words):
        _read_sentence(sentence, told)
    return told


def _read_sentence(sentence: list[_Word], told: _Told) -> None:
    """Add the statements of a sentence, or the reason why there are none."""
    quoted = _short(told.text[sentence[0].start : sentence[-1].end])
    kinds = {word.term.kind for word in sentence}
    is_header = sentence[0].term.kind == terms.HEADER and any(word.text == ":" for word in sentence[1:3])
    if sentence[0].text.lower() in _FINDINGS_HEADERS and any(word.text == ":" for word in sentence[1:2]):
        told.is_history = False
    if terms.FOREIGN in kinds or is_header:
        told.is_history |= is_header
        told.not_understood.append(quoted)
        return
    kinds |= {word.term.value for word in sentence if word.term.kind == terms.HEADER}
    parts = _parts(sentence)
    if len(parts) > MAX_PARTS:
        told.doubts.append(frozenset())
        told.not_understood.append(quoted)
        return
    is_on_lungs = any(part.findings() for part in parts) or (terms.PLACE in kinds and terms.CLEAR in kinds)
    if kinds & {terms.EARLIER, terms.RESOLVED}:
        if is_on_lungs and terms.RESOLVED not in kinds:
            told.doubts.append(_doubtful(parts))
        (told.uncertain if is_on_lungs else told.not_understood).append(quoted)
        return
    unsure = [part for part in parts if part.has(terms.UNSURE) or any(word.text == "?" for word in part.words)]
    apart = [part for part in unsure if part.has(terms.OTHER, "apart") and not part.findings()]
    if len(unsure) > len(apart):
        if is_on_lungs and not told.is_history:
            told.doubts.append(_doubtful(parts))
        (told.uncertain if is_on_lungs else told.not_understood).append(quoted)
        return
    for part in apart:
        told.not_understood.append(_quote(told.text, [part]))
        part.words = [replace(word, term=Term(terms.OTHER, "apart")) for word in part.words]
    statements = _statements(parts, told)
    if statements is not None and terms.EXCEPT in kinds:
        statements = _with_exceptions(statements, is_first=sentence[0].term.kind == terms.EXCEPT)
    if statements is None:
        told.doubts.append(_doubtful(parts))
        told.uncertain.append(quoted)
    else:
        told.statements += statements


def _with_exceptions(statements: list[_Statement], *, is_first: bool) -> list[_Statement] | None:
    """Take denials for what the exceptions leave over; None where what is present has exceptions."""
    denials = statements[1:] if is_first else statements[:1]
    if not denials or any(statement.kind not in ("absent", "clear") for statement in denials):
        return None
    for statement in statements:
        statement.is_rest = True
    return statements


def _doubtful(parts: Iterable[_Part]) -> frozenset[tuple[str, str]]:
    """Return all places that a sentence could mean; empty for anywhere."""
    hands: set[str] = set()
    heights: set[str] = set()
    for part in parts:
        for word in part.words:
            hands |= word.term.place.hands
            heights |= word.term.place.heights
    return (
        frozenset((hand, height) for hand in hands or BOTH for height in heights or HEIGHTS)
        if hands | heights
        else (frozenset())
    )


def _statements(parts: Sequence[_Part], told: _Told) -> list[_Statement] | None:
    """Join parts to statements; None where the sentence can be meant in two ways as a whole."""
    joiner = _Joiner(told)
    for place, part in enumerate(parts):
        kind = part.kind
        if kind == "unclear":
            return None
        if part.lead == "but" and kind != "place" and joiner.found:
            joiner.found[-1].is_open = False
        if kind == "place":
            following = next((later.kind for later in parts[place + 1 :] if later.kind not in ("", "place")), "")
            is_sure = joiner.add_place(part, following)
        else:
            is_sure = kind == "" or joiner.add(part)
        if not is_sure:
            return None
    if joiner.pending and not _close(joiner.pending, joiner.found, told):
        return None
    is_rest = any(part.has(terms.ELSEWHERE) for part in parts)
    for statement in joiner.found:
        statement.is_rest = is_rest
    return joiner.found


class _Joiner:
    """Joins the parts of one sentence; its methods return False where the sentence can be meant in two ways."""

    def __init__(self, told: _Told) -> None:
        self.told = told
        self.found: list[_Statement] = []
        self.pending: list[_Part] = []
        """Places of which it is not yet clear to what they belong."""

    @property
    def before(self) -> _Statement | None:
        return self.found[-1] if self.found else None

    def add_place(self, part: _Part, following: str) -> bool:
        """Keep a place for later; `following` is the kind of what comes next. Only a denial may leave a choice."""
        kind = self.before.kind if self.before else ""
        if part.lead == "or" and kind != "absent" and (kind == "present" or following != "absent"):
            return False
        self.pending.append(part)
        return True

    def add(self, part: _Part) -> bool:
        """Add a part that says something, with the places before it that are its own."""
        kind, before = part.kind, self.before
        joined = [*self._places_of(part), part]
        if kind == "other":
            self._add_other(part, joined)
        elif kind == "present" and before is not None and before.kind == "absent" and before.is_open:
            self._add_to_denial(before, part, joined)
        elif kind == "present" and before is not None and before.kind == "present" and part.lead != "but":
            if part.lead == "or" and (part.num_places or before.num_places):
                return False
            before.parts += joined
        else:
            self.found.append(_Statement(kind, joined))
        return True

    def _places_of(self, part: _Part) -> list[_Part]:
        """Return the pending places that belong to a part; the others go to the statement before it, or are open."""
        pending, self.pending = self.pending, []
        if not pending:
            return []
        where = _belongs(pending, part, self.before)
        if where == "behind":
            return pending
        if where == "before" and self.before is not None:
            self.before.parts += pending
        else:
            self._leave_open(pending)
        return []

    def _add_other(self, part: _Part, joined: list[_Part]) -> None:
        before = self.before
        if before is not None and not before.num_places:
            if before.kind == "absent" and part.lead in ("and", "or", "comma") and terms.ORGAN not in part.kinds():
                # "no consolidation or effusion on the left": on the left there is none, however it is meant
                places = [word for word in part.words if word.term.kind == terms.PLACE]
                before.parts += [_Part(part.lead, places)] if places else []
            elif before.kind == "clear":
                before.kind = "other"
        self.told.not_understood.append(_quote(self.told.text, joined))

    def _add_to_denial(self, before: _Statement, part: _Part, joined: list[_Part]) -> None:
        """Add a finding behind a denial: another one denied, or one that is there; open where it is not sure."""
        if part.has(terms.SHOWS, "begins"):
            self.found.append(_Statement("present", joined))
        elif part.lead == "or" or not (part.num_places or part.has(terms.SHOWS)):
            before.parts += joined
        else:
            self._leave_open(joined)

    def _leave_open(self, parts: list[_Part]) -> None:
        self.told.doubts.append(_doubtful(parts))
        self.told.uncertain.append(_quote(self.told.text, parts))


def _belongs(pending: list[_Part], part: _Part, before: _Statement | None) -> str:
    """Tell whether places between two statements belong to the one "before", "behind", or to "neither" for sure."""
    if before is None:
        return "behind"
    lead = pending[0].lead
    if before.kind == "other":
        return "behind" if lead in ("comma", "but", "with", "colon") else "neither"
    is_listed = lead in ("and", "or") or _dangles(before)
    if part.lead == "negation":
        if part.has(terms.SPARED) and before.kind == "present" and is_listed:
            return "before"
        if part.findings() or part.has(terms.SPARED):
            return "neither" if is_listed else "behind"
        return "before" if before.kind == "present" or is_listed else "neither"
    if part.kind == before.kind == "present":
        return "before"
    if part.lead in ("and", "or"):
        return "behind" if not is_listed else "neither"
    if is_listed:
        return "before"
    if part.kind in ("absent", "other") and before.kind == "present" and not part.num_places:
        return "before"
    return "neither"


def _dangles(statement: _Statement) -> bool:
    """Tell whether the last place of a statement waits for its noun: "in the left upper"."""
    places = statement.parts[-1].places()
    return bool(places) and bool(places[-1].term.place.heights) and not any(
        word.term.place.is_noun or word.term.place.is_adjective for word in places
    )  # fmt: skip


def _close(pending: list[_Part], found: list[_Statement], told: _Told) -> bool:
    """Give the places at the end of a sentence to its last statement; False where that is not sure."""
    is_bare = all(_is_bare_hand(word.term.place) for part in pending for word in part.places())
    if not found or found[-1].kind == "other":
        told.not_understood.append(_quote(told.text, pending))
        return True
    is_listed = pending[0].lead in ("and", "or") or _dangles(found[-1])
    if (found[-1].kind == "present" and not is_bare) or is_listed:
        if any(part.lead == "or" for part in pending) and found[-1].kind != "absent":
            return False
        found[-1].parts += pending
        return True
    if is_bare and found[-1].kind == "present":
        told.not_understood.append(_quote(told.text, pending))
        return True
    return False


def _quote(text: str, parts: Sequence[_Part]) -> str:
    return _short(text[parts[0].words[0].start : parts[-1].words[-1].end])


def _short(phrase: str) -> str:
    """Return a phrase on one line, long ones cut."""
    phrase = " ".join(phrase.split())
    return phrase if len(phrase) <= 160 else f"{phrase[:157]}..."


# ---- places


@dataclass
class _Unit:
    """One place as it is told: "left upper", "middle zone", "the lungs"."""

    hands: frozenset[str] = frozenset()
    heights: frozenset[str] = frozenset()
    is_noun: bool = False
    is_plural: bool = False
    is_whole: bool = False
    is_adjective: bool = False
    follows_header: bool = False

    def add(self, place: Place) -> None:
        self.hands |= place.hands
        self.heights |= place.heights
        self.is_noun |= place.is_noun
        self.is_plural |= place.is_plural
        self.is_whole |= place.is_whole
        self.is_adjective |= place.is_adjective

    @property
    def is_settled(self) -> bool:
        return self.is_noun or self.is_adjective


@dataclass(frozen=True)
class _Where:
    """The places of a statement."""

    zones: frozenset[tuple[str, str]] = frozenset()
    hands: frozenset[str] = frozenset()
    """Lungs told without a height."""
    lungs: bool = False
    """Whether "the lungs" are told without a side."""
    lung: bool = False
    """Whether "lung" is: which one only a denial leaves clear, "no lung infection"."""
    is_unclear: bool = False
    """Whether some place could not be settled."""


def _where(parts: Sequence[_Part]) -> _Where:
    """Settle sides and heights of the places: what one leaves out, its neighbour says."""
    units = _units(parts)
    zones: set[tuple[str, str]] = set()
    hands: set[str] = set()
    lungs = lung = is_unclear = False
    for place, unit in enumerate(units):
        before = units[place - 1] if place else None
        behind = units[place + 1] if place + 1 < len(units) else None
        if not unit.hands:
            unit.hands = _hands_of(unit, before, units[place + 1 : place + 4])
        if unit.heights and not unit.is_settled:
            noun = next((later for later in units[place + 1 : place + 4] if later.is_noun), None)
            if noun is None:
                header = before is not None and before.is_noun and not before.heights  # "left lung, middle and lower"
                unit.follows_header = header or (before is not None and before.follows_header)
                if not unit.follows_header:
                    is_unclear = True
                    continue
        if unit.heights:
            is_unclear |= not unit.hands
            zones.update((hand, height) for hand in unit.hands for height in unit.heights)
        elif behind is not None and behind.heights and not behind.hands and unit.hands:
            continue  # "left lung, middle and lower zones"
        elif behind is not None and not unit.is_noun and behind.hands and behind.heights and len(unit.hands) == 1:
            zones.update((hand, height) for hand in unit.hands for height in behind.heights)  # "left and right lower"
        elif unit.is_whole and unit.is_noun and (unit.hands or unit.is_plural):
            zones.update((hand, height) for hand in unit.hands or BOTH for height in HEIGHTS)
        elif unit.hands:
            hands |= unit.hands
        elif unit.is_noun:
            lungs |= unit.is_plural
            lung |= not unit.is_plural
    return _Where(frozenset(zones), frozenset(hands), lungs, lung, is_unclear)


def _units(parts: Sequence[_Part]) -> list[_Unit]:
    units: list[_Unit] = []
    for part in parts:
        unit = _Unit()
        for word in part.places():
            place = word.term.place
            is_new_hand = place.hands and unit.hands and not (place.hands == unit.hands or place.is_bilateral)
            is_new_height = place.heights and unit.heights and unit.is_noun and not place.is_adjective
            if is_new_hand or (is_new_height and place.heights != unit.heights):
                units.append(unit)
                unit = _Unit()
            unit.add(place)
        if part.places():
            units.append(unit)
    return units


def _hands_of(unit: _Unit, before: _Unit | None, behind: Sequence[_Unit]) -> frozenset[str]:
    """Return the lung that a place without one means by its neighbours; empty where that is not sure."""
    if unit.heights and before is not None and before.hands:
        if not unit.is_noun or not unit.is_plural or not before.is_noun or not before.heights:
            return before.hands
        return before.hands if before.hands == BOTH else frozenset()
    if unit.heights and not unit.is_noun:
        noun = next((later for later in behind if later.is_noun or later.hands), None)
        if noun is not None and noun.hands:
            return noun.hands
        return BOTH if noun is not None and noun.is_plural else frozenset()
    return BOTH if unit.heights and unit.is_plural else frozenset()


# ---- the reading


@dataclass
class _Claim:
    """A statement with its places settled."""

    statement: _Statement
    zones: set[tuple[str, str]]
    hands: set[str]
    findings: set[str]
    is_narrow: bool = False
    phrase: str = ""


_NOTHING = "no side and no zone could be read"
_CONTRADICTED = "no side and no zone could be read: the text contradicts itself"
_ALL_ZONES = frozenset((hand, height) for hand in (LEFT, RIGHT) for height in HEIGHTS)


def _lung(hand: str) -> set[tuple[str, str]]:
    return {zone for zone in _ALL_ZONES if zone[0] == hand}


def _resolve(told: _Told) -> ParsedText:
    """Weigh all statements against each other."""
    if len(told.statements) > MAX_STATEMENTS:
        return ParsedText(
            refusal=f"the text makes {len(told.statements)} statements, more than {MAX_STATEMENTS}; give the sentences "
            "on the lungs"
        )
    present, absent = _claims(told)
    doubts = frozenset().union(*(places or _ALL_ZONES for places in told.doubts))
    contradictions: list[str] = []
    broken: set[tuple[str, str]] = set()
    free: set[tuple[str, str]] = set()
    for claim in absent:
        free |= _freed(claim, present, contradictions, broken)
    named = {zone for claim in present for zone in claim.zones} - broken
    hands = {hand for hand, _ in named} | {hand for claim in present for hand in claim.hands}
    free -= named | broken | doubts
    side = _side(present, hands, free, contradictions)
    is_whole = side == "unilateral" and len(hands) == 1 and any(c.statement.has(terms.UNILATERAL) for c in present)
    if is_whole:
        free |= _lung(_OTHER_HAND[next(iter(hands))]) - doubts - broken
    number = _number(present, told) if not contradictions else None
    used = [claim for claim in (*present, *absent) if claim.phrase not in told.not_understood]
    is_nothing = side is None and number is None and not named and not free
    if is_nothing and not contradictions:
        told.not_understood += [claim.phrase for claim in used]
        used = []
    return ParsedText(
        zones=_names(named),
        free=_names(free),
        side=side,
        number=number,
        understood=tuple(dict.fromkeys(claim.phrase for claim in used)),
        uncertain=tuple(dict.fromkeys(told.uncertain)),
        not_understood=tuple(dict.fromkeys(told.not_understood)),
        contradictions=tuple(dict.fromkeys(contradictions)),
        refusal=(_CONTRADICTED if contradictions else _NOTHING) if is_nothing else "",
    )


def _claims(told: _Told) -> tuple[list[_Claim], list[_Claim]]:
    """Settle the places; statements that cannot be placed are told as not understood."""
    present: list[_Claim] = []
    absent: list[_Claim] = []
    for statement in told.statements:
        phrase = _short(told.text[statement.start : statement.end])
        where = _where(statement.parts)
        claim = _Claim(statement, set(where.zones), set(where.hands), statement.findings(), phrase=phrase)
        if statement.kind == "present":
            present.append(claim)
            if where.is_unclear and claim.zones:
                told.uncertain.append(phrase)
            if not (claim.zones or claim.hands or statement.has(terms.UNILATERAL)):
                told.not_understood.append(phrase)
        elif statement.kind in ("absent", "clear") and _deny(claim, where, told):
            absent.append(claim)
    return present, absent


def _deny(claim: _Claim, where: _Where, told: _Told) -> bool:
    """Settle what a denial frees; False where it frees nothing."""
    statement = claim.statement
    is_spared = statement.has(terms.SPARED)
    if statement.kind == "absent" and not claim.findings and not is_spared:
        told.not_understood.append(claim.phrase)
        return False
    limited = any(part.has(terms.LIMIT) and part.findings() for part in statement.parts)
    half = any(word.term.place.is_bilateral for part in statement.parts for word in part.words) and (
        statement.kind == "absent" and not is_spared
    )
    if limited or half or statement.has(terms.UNILATERAL):
        told.uncertain.append(claim.phrase)
        return False
    zones = set(where.zones)
    for hand in where.hands:
        zones |= _lung(hand)
    num_places = statement.num_places
    is_anywhere = not num_places and (statement.kind == "absent" or statement.has(terms.EXAM) or statement.is_rest)
    has_noun = any(word.term.place.is_noun for part in statement.parts for word in part.words)
    is_vague = statement.kind == "clear" and ((num_places and not has_noun) or statement.has(terms.OTHER))
    if where.is_unclear or is_vague or (where.lung and (statement.kind == "clear" or is_spared)):
        told.not_understood.append(claim.phrase)
        return False
    if where.lungs or where.lung or (is_anywhere and not is_spared):
        zones |= _ALL_ZONES
    if not zones:
        told.not_understood.append(claim.phrase)
        return False
    claim.zones, claim.hands = zones, set()
    claim.is_narrow = statement.has(terms.NARROW)
    if statement.kind == "clear" or is_spared:
        claim.findings = {"infection"}
    return True


def _freed(
    claim: _Claim,
    present: Sequence[_Claim],
    contradictions: list[str],
    broken: set[tuple[str, str]],
) -> set[tuple[str, str]]:
    """Return the zones that a denial frees, after what contradicts it or leaves it open; add to what is broken."""
    free = set(claim.zones)
    for other in present:
        touched = other.zones & claim.zones
        lungs = {hand for hand in other.hands if _lung(hand) <= claim.zones}
        is_unplaced = not (other.zones or other.hands)
        is_broad = not claim.is_narrow and bool({"infection", "opacity"} & claim.findings)
        is_same = not claim.is_narrow and bool(other.findings & claim.findings)
        if claim.statement.has(terms.SPARED):
            other.zones -= claim.zones
        elif claim.statement.is_rest or not (is_broad or is_same):
            free -= other.zones
            free -= {zone for hand in other.hands for zone in _lung(hand)}
            if is_unplaced or (not claim.statement.is_rest and claim.zones == _ALL_ZONES):
                free = set()
        elif touched or lungs or (is_unplaced and claim.zones == _ALL_ZONES):
            concerned = {hand for hand, _ in touched} | lungs or set(BOTH)
            free = {zone for zone in free if zone[0] not in concerned}
            broken |= touched
            other.hands -= lungs
            contradictions.append(f"{_short(other.phrase)!r} and {_short(claim.phrase)!r}")
    return free


def _side(
    present: Sequence[_Claim], hands: set[str], free: set[tuple[str, str]], contradictions: list[str]
) -> str | None:
    one_sided = any(claim.statement.has(terms.UNILATERAL) for claim in present)
    if one_sided and hands == BOTH:
        contradictions.append("unilateral, with both lungs named")
    if contradictions:
        return None
    if hands == BOTH:
        return "bilateral"
    if one_sided or (len(hands) == 1 and _lung(_OTHER_HAND[next(iter(hands))]) <= free):
        return "unilateral"
    return "none" if not present and free == _ALL_ZONES else None


def _number(present: Sequence[_Claim], told: _Told) -> int | None:
    """Return the count of areas, where there is one, of all that is present."""
    counts = [count for claim in present for part in claim.statement.parts for count in _counts(part)]
    return counts[0] if len(counts) == len(present) == 1 and counts[0] > 0 and not told.doubts else None


def _counts(part: _Part) -> list[int]:
    """Return the numbers of a part that count findings; -1 for one that is left open, or counts something else."""
    found: list[int] = []
    for place, word in enumerate(part.words):
        if word.term.kind != terms.COUNT:
            continue
        before = part.words[place - 1].text.lower() if place else ""
        behind = place + 1
        while behind < len(part.words) and part.words[behind].text.lower() in terms.COUNT_ADJECTIVES:
            behind += 1
        kind = part.words[behind].term.kind if behind < len(part.words) else ""
        counted = part.words[behind].text.lower() if behind < len(part.words) else ""
        number = int(word.term.value)
        is_many = counted == "foci" or (counted.endswith("s") and counted != "focus")
        is_count = kind in (terms.FINDING, terms.COUNTED) and is_many == (number > 1)  # not "day 3 opacity"
        is_open = before in terms.COUNT_SPOILERS or number > MAX_LESIONS
        found.append(number if is_count and not is_open else -1)
    return found


def _names(zones: Iterable[tuple[str, str]]) -> frozenset[str]:
    found = frozenset(hand[0] + height for hand, height in zones)
    assert found <= set(ZONES)
    return found


def _exchanged(reading: ParsedText) -> ParsedText:
    """Return the reading with the lungs exchanged; the phrases stay as they were found."""

    def other(zones: frozenset[str]) -> frozenset[str]:
        return frozenset(("r" if zone[0] == "l" else "l") + zone[1:] for zone in zones)

    return replace(reading, zones=other(reading.zones), free=other(reading.free))
