"""Join the parts of each sentence to statements: present, absent or clear, somewhere or anywhere. No torch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from c2fvl.reports.free_text import phrases, terms
from c2fvl.reports.free_text.terms import Place, Term
from c2fvl.reports.free_text.words import Part, Word, quote, split_parts, split_sentences
from c2fvl.reports.zones import HANDS, HEIGHTS, ZONES, zone_at

MAX_PARTS = 100
"""A sentence of more parts is not read: no report has one, and comparing parts would take long."""

_FINDINGS_HEADERS = frozenset(
    {"findings", "finding", "impression", "conclusion", "report", "result", "results", "opinion"}
)


_SEEN = frozenset({"present", "seen", "noted", "identified", "visible"})


@dataclass
class Statement:
    """Parts that say one thing."""

    kind: str
    """The kind of its first part that says something: "present", "absent", "clear" or "other"."""
    parts: list[Part]
    is_rest: bool = False
    """Whether it is about what other statements leave over: "otherwise clear"."""
    is_open: bool = True
    """Whether a list that it began may go on."""

    def findings(self) -> set[str]:
        """Return the classes of findings."""
        return {finding for part in self.parts for finding in part.findings()}

    def has(self, kind: str) -> bool:
        """Tell whether a word has this kind of meaning."""
        return any(part.has(kind) for part in self.parts)

    @property
    def num_places(self) -> int:
        """Number of words of place."""
        return sum(part.num_places for part in self.parts)

    @property
    def words(self) -> list[Word]:
        """All words of the parts, in order."""
        return [word for part in self.parts for word in part.words]


@dataclass
class TextContent:
    """All that a text says, statement by statement."""

    text: str
    statements: list[Statement] = field(default_factory=list)
    open_zones: set[str] = field(default_factory=set)
    """Zones in which the text leaves open whether anything is there."""
    uncertain: list[str] = field(default_factory=list)
    not_understood: list[str] = field(default_factory=list)
    gone_zones: set[str] = field(default_factory=set)
    """Zones of which the text says that what was there has gone."""
    last: list[Statement] = field(default_factory=list)
    """The statements of the sentence before."""
    is_history: bool = False
    """Whether the sentence is in the history, before the findings; a question there leaves nothing open."""

    def take_back(self, *, is_all: bool) -> None:
        """Leave open what the sentence before said to be there, or all sentences."""
        for statement in [each for each in (self.statements if is_all else self.last) if each.kind == "present"]:
            self.leave_open(statement.parts, quote(self.text, statement.words))
            self.statements = [each for each in self.statements if each is not statement]

    def leave_open(self, parts: Iterable[Part], phrase: str) -> None:
        """Note that a phrase leaves open what is in all zones that its parts can mean."""
        self.open_zones |= _possible_zones(parts)
        self.uncertain.append(phrase)


def read_statements(text: str, words: Sequence[Word]) -> TextContent:
    """Return what the words of a text say, statement by statement."""
    content = TextContent(text)
    for sentence in split_sentences(words):
        _read_sentence(sentence, content)
    return content


def _read_sentence(sentence: list[Word], content: TextContent) -> None:
    """Add the statements of a sentence, or the reason why there are none."""
    quoted = quote(content.text, sentence)
    last, content.last = content.last, []
    kinds = {word.term.kind for word in sentence}
    is_header = sentence[0].term.kind == terms.HEADER and any(word.text == ":" for word in sentence[1:3])
    if sentence[0].text.lower() in _FINDINGS_HEADERS and any(word.text == ":" for word in sentence[1:2]):
        content.is_history = False
    if terms.FOREIGN in kinds or is_header:
        content.is_history |= is_header
        content.not_understood.append(quoted)
        return
    sentence = phrases.without_advice(sentence)
    if not sentence:
        content.last = last
        content.not_understood.append(quoted)
        return
    sentence = phrases.without_references([_outside_header(word) for word in sentence])
    kinds = {word.term.kind for word in sentence}
    parts = split_parts(sentence)
    if any(word.text.lower() in terms.CORRECTIONS for word in sentence):
        content.open_zones |= set(ZONES)
        content.take_back(is_all=True)
    elif sentence and phrases.refers_back(sentence):
        content.last = last
        content.take_back(is_all=terms.FINDING in kinds)
    if len(parts) > MAX_PARTS:
        content.open_zones |= set(ZONES)
        content.not_understood.append(quoted)
        return
    if _leave_doubts(sentence, parts, quoted, content):
        return
    statements = _Joiner(content).join(parts)
    if statements is not None and terms.EXCEPT in kinds:
        is_first = sentence[0].term.kind == terms.EXCEPT and statements[:1] != [] and statements[0].kind == "present"
        statements = _with_exceptions(statements, is_first=is_first)
        for part in parts:
            if part.has(terms.OTHER, "opaque") and not part.findings():
                content.open_zones |= _possible_zones([part])
    if statements is None:
        content.leave_open(parts, quoted)
    else:
        content.statements += statements
        content.last = statements


def _leave_doubts(sentence: Sequence[Word], parts: list[Part], quoted: str, content: TextContent) -> bool:
    """Leave a sentence open that is in doubt, on an earlier image, or not understood; False for a plain one.

    A doubt that is about something else alone ("possible effusion") leaves the rest of the sentence plain.
    """
    kinds = {word.term.kind for word in sentence}
    unsure = [part for part in parts if part.has(terms.UNSURE) or any(word.text == "?" for word in part.words)]
    apart = [part for part in unsure if part.has(terms.OTHER, "apart") and not part.findings()]
    is_earlier = bool(kinds & {terms.EARLIER, terms.RESOLVED})
    is_strange = bool(phrases.unknown_words(sentence)) or phrases.has_other_cause(sentence)
    is_strange |= phrases.has_doubtful_lobe(sentence) or phrases.has_doubtful_hand(sentence)
    is_strange |= phrases.has_less(sentence)
    if is_earlier or is_strange or len(unsure) > len(apart):
        if not (any(part.findings() for part in parts) or (terms.PLACE in kinds and terms.CLEAR in kinds)):
            content.not_understood.append(quoted)
        elif terms.RESOLVED in kinds and not content.is_history:
            content.gone_zones |= _possible_zones(parts)
            content.uncertain.append(quoted)
        elif terms.RESOLVED in kinds or (content.is_history and not is_earlier):
            content.uncertain.append(quoted)
        else:
            content.leave_open(parts, quoted)
        return True
    for part in apart:
        content.not_understood.append(quote(content.text, part.words))
        part.words = [replace(word, term=Term(terms.OTHER, "apart")) for word in part.words]
    return False


def _outside_header(word: Word) -> Word:
    """Return a word that can be a header with what it means within a sentence."""
    return replace(word, term=Term(word.term.value)) if word.term.kind == terms.HEADER else word


def _with_exceptions(statements: list[Statement], *, is_first: bool) -> list[Statement] | None:
    """Let denials hold for what the exceptions leave over; None if something present has exceptions."""
    denials = statements[1:] if is_first else statements[:1]
    if not denials or any(statement.kind not in ("absent", "clear") for statement in denials):
        return None
    for statement in statements:
        statement.is_rest = True
    return statements


def _possible_zones(parts: Iterable[Part]) -> set[str]:
    """Return all zones that some parts can mean; without a word of place these are all zones."""
    places = [word.term.place for part in parts for word in part.words]
    hands = {hand for place in places for hand in place.hands} or HANDS
    heights = {height for place in places for height in place.heights} or HEIGHTS
    return {zone_at(hand, height) for hand in hands for height in heights}


class _Joiner:
    """Joins the parts of one sentence; its methods return False if the sentence can be meant in two ways."""

    def __init__(self, content: TextContent) -> None:
        self.content = content
        self.statements: list[Statement] = []
        self.pending: list[Part] = []
        """Places that are not yet assigned to a statement."""
        self.header: list[Word] = []
        """The words of one lung with which the sentence begins: "Right lung: upper zone clear"."""

    @property
    def before(self) -> Statement | None:
        return self.statements[-1] if self.statements else None

    def join(self, parts: Sequence[Part]) -> list[Statement] | None:
        """Return the statements that the parts make; None if the sentence can be meant in two ways."""
        for index, part in enumerate(parts):
            if index == 1 and part.lead == "colon" and parts[0].kind == "place":
                self.header = [word for word in parts[0].places() if len(word.term.place.hands) == 1]
            self._inherit(part, parts[index - 1] if index else None)
            kind = part.kind
            if kind == "unclear":
                return None
            if part.lead == "but" and kind != "place" and self.before is not None:
                self.before.is_open = False
            is_denied = any(earlier.has(terms.NEGATION) for earlier in parts[:index]) or part.has(terms.DENIAL)
            if kind == "present" and part.lead == "or" and parts[index - 1].kind == "other" and not is_denied:
                return None  # "effusion or consolidation at the left base"
            if kind == "place":
                following = next((later.kind for later in parts[index + 1 :] if later.kind not in ("", "place")), "")
                is_sure = self._add_place(part, following)
            else:
                is_sure = kind == "" or self._add(part)
            if not is_sure:
                return None
        if self.pending and not self._close():
            return None
        is_rest = any(part.has(terms.ELSEWHERE) for part in parts)
        for statement in self.statements:
            statement.is_rest = is_rest
        return self.statements

    def _inherit(self, part: Part, neighbour: Part | None) -> None:
        """Complete a part by its neighbour: "with adjacent lower lobe consolidation", "but is present in the left"."""
        before = self.before
        lacks_hand = any(word.term.place.heights for word in part.words) and not any(
            word.term.place.hands or word.term.place.is_plural for word in part.words
        )
        source: Sequence[Word] = ()
        heights = any(word.term.place.heights for word in part.words)
        if self.header and heights and not any(word.term.place.hands for word in part.words):
            lacks_hand, source = True, self.header
        elif lacks_hand and part.has(terms.SPARED) and before is not None and before.kind == "present":
            source = before.words
        elif lacks_hand and neighbour is not None and neighbour.kind == "other":
            source = neighbour.words if phrases.belongs_to_neighbour(part.words) else ()
        hands = [word for word in source if word.term.place.hands]
        if hands and len({word.term.place.hands for word in hands}) == 1:
            place = Place(hands[0].term.place.hands)
            part.words.insert(0, replace(hands[0], term=Term(terms.PLACE, place=place)))
        is_seen = any(word.text.lower() in _SEEN for word in part.words)
        if part.kind == "place" and part.lead == "but" and is_seen and before is not None and before.kind == "absent":
            part.words[:0] = [word for word in before.words if word.term.kind == terms.FINDING]

    def _add_place(self, part: Part, following: str) -> bool:
        """Keep a place for later; `following` is the kind of what comes next. Only a denial may leave a choice."""
        kind = self.before.kind if self.before else ""
        if part.lead == "or" and kind != "absent" and (kind == "present" or following != "absent"):
            return False
        self.pending.append(part)
        return True

    def _add(self, part: Part) -> bool:
        """Add a part that says something, with the places before it that belong to it."""
        kind, before = "other" if _is_nor(part) and not part.findings() else part.kind, self.before
        if before is not None and self._is_doubled(before, part, kind):
            return False
        joined = [*self._places_of(part), part]
        if (
            kind == "absent"
            and _is_nor(part)
            and before is not None
            and before.kind == "absent"
            and (not before.num_places or not (part.num_places or len(joined) > 1))
        ):  # "neither opacity nor consolidation in the left base"
            before.parts += joined
        elif kind == "other":
            self._add_other(part, joined)
        elif kind == "present" and before is not None and before.kind == "absent" and before.is_open:
            self._add_to_denial(before, part, joined)
        elif kind == "present" and before is not None and before.kind == "present" and part.lead != "but":
            if part.lead == "or" and (part.num_places or before.num_places):
                return False
            before.parts += joined
        else:
            self.statements.append(Statement(kind, joined))
        return True

    def _is_doubled(self, before: Statement, part: Part, kind: str) -> bool:
        """Tell whether a part leaves two meanings to the statement before it.

        It may be what the finding is ("opacity, atelectasis"), its alternative ("consolidation or effusion"), or its
        denial ("consolidation: none").
        """
        if before.kind != "present":
            return False
        if kind == "other" and part.lead == "or":
            return True
        if all(word.term.kind in (terms.NEGATION, terms.DENIAL) for word in part.words):
            return True
        is_name = part.lead in ("comma", "colon") and part.has(terms.OTHER, "opaque") and not part.num_places
        return kind == "other" and is_name and before.findings() == {"opacity"}

    def _places_of(self, part: Part) -> list[Part]:
        """Return the pending places that belong to a part; the others go to the statement before, or stay open."""
        pending, self.pending = self.pending, []
        if not pending:
            return []
        owner = _owner(pending, part, self.before)
        if owner == "behind":
            return pending
        if owner == "before" and self.before is not None:
            self.before.parts += pending
        else:
            self._leave_open(pending)
        return []

    def _add_other(self, part: Part, joined: list[Part]) -> None:
        before = self.before
        if before is not None and not before.num_places:
            is_listed = part.lead in ("and", "or", "comma") or _is_nor(part)
            if before.kind == "absent" and is_listed and terms.ORGAN not in part.kinds():
                # "no consolidation or effusion on the left": on the left there is none, in either meaning
                places = [word for word in part.words if word.term.kind == terms.PLACE]
                before.parts += [Part(part.lead, places)] if places else []
            elif before.kind == "clear":
                before.kind = "other"
        self.content.not_understood.append(self._quote(joined))

    def _add_to_denial(self, before: Statement, part: Part, joined: list[Part]) -> None:
        """Add a finding after a denial: it is denied too, or it is present; if that is not sure, it is left open."""
        if part.has(terms.SHOWS, "begins") or part.lead == "but":
            self.statements.append(Statement("present", joined))
        elif part.lead == "or" or not (part.num_places or part.has(terms.SHOWS)):
            before.parts += joined
        elif before.num_places:
            self._leave_open(joined)
        else:  # "no infection, opacity in the left base": one list, or two statements that contradict each other
            self.statements.remove(before)
            self._leave_open([*before.parts, *joined])

    def _close(self) -> bool:
        """Give the places at the end of the sentence to its last statement; False if that is not sure."""
        pending, before = self.pending, self.before
        if before is None or before.kind == "other":
            self.content.not_understood.append(self._quote(pending))
            return True
        is_bare = all(word.term.place.is_bare_hand for part in pending for word in part.places())
        is_listed = pending[0].lead in ("and", "or") or _waits_for_noun(before)
        if (before.kind == "present" and not is_bare) or is_listed:
            if any(part.lead == "or" for part in pending) and before.kind != "absent":
                return False
            before.parts += pending
            return True
        if is_bare and before.kind == "present":
            self.content.not_understood.append(self._quote(pending))
            return True
        return False

    def _leave_open(self, parts: list[Part]) -> None:
        self.content.leave_open(parts, self._quote(parts))

    def _quote(self, parts: Sequence[Part]) -> str:
        return quote(self.content.text, [parts[0].words[0], parts[-1].words[-1]])


def _is_nor(part: Part) -> bool:
    return part.words[0].text.lower() == "nor"


def _owner(pending: list[Part], part: Part, before: Statement | None) -> str:
    """Tell whether places between two statements belong to the one "before", to the one "behind", or to "neither"."""
    if before is None:
        return "behind"
    lead = pending[0].lead
    if before.kind == "other":
        return "behind" if lead in ("comma", "but", "with", "colon") else "neither"
    is_listed = lead in ("and", "or") or _waits_for_noun(before)
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


def _waits_for_noun(statement: Statement) -> bool:
    """Tell whether the last place of a statement waits for its noun: "in the left upper"."""
    places = [word.term.place for word in statement.parts[-1].places()]
    return (
        bool(places) and bool(places[-1].heights) and not any(place.is_noun or place.is_adjective for place in places)
    )
