"""Cut a free text into words, sentences and parts. No torch.

A word is a token with its meaning, or a fixed phrase of several tokens. A sentence ends at a full stop, a blank line,
or a line that begins something new. A part is a stretch of a sentence between two joints: commas, "and", "with" ….
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from c2fvl.reports.free_text import terms
from c2fvl.reports.free_text.terms import Place, Term

MAX_QUOTED = 160
"""Longer phrases are cut when they are quoted."""

_TOKEN = re.compile(r"\(-\)|\+/-|[^\W\d_]\w*(?:['’][^\W\d_]+)?|\d+(?:[.,]\d+)*\w*|\n[^\S\n]*|[^\w\s]|_")
_SENTENCE_ENDS = frozenset(".;!?")
_COMMAS = frozenset(",():–—")
_BETWEEN = frozenset({"the", "to", "on", "much", "slightly", "side", "sided", "than"})
_BULLETS = frozenset("-*•")
_OPEN_ENDS = frozenset({
    "a", "an", "and", "at", "both", "evidence", "for", "from", "in", "is", "are", "left", "no", "of", "on", "or",
    "right", "the", "there", "to", "upper", "lower", "mid", "middle", "with", "without",
})  # fmt: skip
"""After these words a sentence continues on the next line, however that line begins."""

_NO_TERM = Term("")
_BREAK = Term("break")
_COMMA = Term("comma")
_END = Term("end")


@dataclass(frozen=True)
class Word:
    """A word, a mark or a fixed phrase, with its place in the text and its meaning."""

    text: str
    start: int
    end: int
    term: Term


@dataclass
class Part:
    """A stretch of a sentence between two joints."""

    lead: str
    """What joins it to the part before: "" (first part), "comma", "colon", "and", "or", "but", "with", "negation"."""
    words: list[Word] = field(default_factory=list)

    def kinds(self) -> set[str]:
        """Return the kinds of the words' meanings."""
        return {word.term.kind for word in self.words}

    def has(self, kind: str, value: str | None = None) -> bool:
        """Tell whether a word has this kind of meaning (and this value)."""
        return any(word.term.kind == kind and value in (None, word.term.value) for word in self.words)

    @property
    def kind(self) -> str:
        """One of "present", "absent", "clear", "unclear", "other", "place", ""."""
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
        """Return the classes of findings; "abnormality" counts if it is denied and concerns the lungs."""
        findings = {word.term.value for word in self.words if word.term.kind == terms.FINDING}
        is_denied = self.has(terms.NEGATION) or self.has(terms.DENIAL)
        is_lung = self.has(terms.LUNG_WORD) or self.has(terms.EXAM) or any(w.term.place.is_noun for w in self.words)
        if self.has(terms.ABNORMALITY) and is_denied and is_lung and not self.has(terms.OTHER):
            findings.add("infection")
        return findings

    def places(self) -> list[Word]:
        """Return the words of place that can belong to a finding, not to something else that is named."""
        other = [index for index, word in enumerate(self.words) if word.term.kind in (terms.OTHER, terms.ORGAN)]
        if not other:
            words = self.words
        elif not self.findings() or other[0] == 0:
            words = []
        else:
            end = other[0]
            while end and self.words[end - 1].term.kind == terms.PLACE:  # "left" of "left effusion"
                end -= 1
            words = self.words[:end]
        if self.has(terms.COMPARISON):  # "left more than right" names no place
            words = [
                word
                for word, following in zip(words, [*words[1:], None], strict=False)
                if not word.term.place.is_bare_hand or (following and following.term.kind == terms.PLACE)
            ]
        return [word for word in words if word.term.kind == terms.PLACE]

    @property
    def num_places(self) -> int:
        """Number of words of place, whatever they belong to."""
        return sum(word.term.kind == terms.PLACE for word in self.words)


def find_words(text: str) -> list[Word]:
    """Return the words, marks and fixed phrases of a text in order, each with its meaning."""
    tokens = [match for match in _TOKEN.finditer(text) if match[0] != "-" or _is_dash(text, match.start())]
    words: list[Word] = []
    index = 0
    while index < len(tokens):
        length, term = _longest_phrase(tokens, index)
        start, end = tokens[index].start(), tokens[index + length - 1].end()
        words.append(Word(text[start:end], start, end, term))
        index += length
    return _with_compared_sides(words)


def _with_compared_sides(words: Sequence[Word]) -> list[Word]:
    """Make one place of both lungs of "left greater than right" and "L>R": each of them has the finding."""
    joined: list[Word] = []
    index = 0
    while index < len(words):
        end = index + 1
        while end < len(words) and (words[end].term.kind == terms.COMPARISON or words[end].text.lower() in _BETWEEN):
            end += 1
        is_compared = any(word.term.kind == terms.COMPARISON for word in words[index + 1 : end])
        both = [words[index].term.place, words[end].term.place] if is_compared and end < len(words) else []
        if both and all(place.is_bare_hand and len(place.hands) == 1 for place in both) and both[0] != both[1]:
            place = Place(terms.BOTH, is_bilateral=True)
            start = words[index].start
            text = " ".join(word.text for word in words[index : end + 1])
            joined.append(Word(text, start, words[end].end, Term(terms.PLACE, place=place)))
            index = end + 1
        else:
            joined.append(words[index])
            index += 1
    return joined


def _is_dash(text: str, position: int) -> bool:
    """Tell a dash between words from a hyphen within a word."""
    return text[position - 1 : position].isspace() or text[position + 1 : position + 2].isspace()


def _longest_phrase(tokens: Sequence[re.Match[str]], index: int) -> tuple[int, Term]:
    """Return the number of tokens, from `index` on, that make the longest known phrase, and its meaning."""
    first = tokens[index][0]
    if first in ("L", "R"):  # small letters are too often something else
        is_amount = index > 0 and tokens[index - 1][0][0].isdigit()
        return 1, _NO_TERM if is_amount else Term(terms.PLACE, place=Place(terms.LEFT if first == "L" else terms.RIGHT))
    if first[0] == "\n":
        return 1, _BREAK
    key: list[str] = []
    best = (1, _NO_TERM)
    for length, token in enumerate(tokens[index : index + terms.LONGEST_PHRASE + 1], start=1):
        if token[0][0] == "\n":
            continue  # a phrase may continue on the next line
        key.append(token[0].lower().replace("’", "'"))
        term = terms.TERMS.get(tuple(key))
        if term is not None:
            best = (length, term)
    if best[1] is _NO_TERM:
        if first in _SENTENCE_ENDS and not _is_within_sentence(tokens, index):
            return 1, _END
        if first in _COMMAS or first == "-":
            return 1, _COMMA
        if first[0].isdigit() and first.isascii() and first.isdigit() and len(first) < 3:
            return 1, Term(terms.COUNT, str(int(first)))
    return best


def _is_within_sentence(tokens: Sequence[re.Match[str]], index: int) -> bool:
    """Tell a question mark before what is in doubt, and the full stop of an abbreviation, from an end."""
    mark, before = tokens[index], tokens[index - 1] if index else None
    following = tokens[index + 1] if index + 1 < len(tokens) else None
    if following is None or following[0][0] == "\n":
        return False
    is_glued = before is not None and before.end() == mark.start()
    if mark[0] == "?":
        return not is_glued or following.start() == mark.end()
    is_short = before is not None and is_glued and before[0].lower() in terms.ABBREVIATIONS
    return mark[0] == "." and is_short and following[0][0].islower()


def split_sentences(words: Sequence[Word]) -> Iterator[list[Word]]:
    """Cut at full stops, at blank lines, and at lines that begin something new; other ends of lines become commas."""
    sentence: list[Word] = []
    for index, word in enumerate(words):
        if word.term is _END:
            if sentence:
                yield [*sentence, word] if word.text == "?" else sentence
            sentence = []
        elif word.term is not _BREAK:
            sentence.append(word)
        elif sentence:
            following = words[index + 1] if index + 1 < len(words) else None
            if sentence[-1].text.lower().split()[-1] in _OPEN_ENDS:
                continue
            if following is None or following.term is _BREAK or _begins_sentence(following.text):
                yield sentence
                sentence = []
            else:
                sentence.append(Word("", word.start, word.start, _COMMA))
    if sentence:
        yield sentence


def _begins_sentence(word: str) -> bool:
    return word[0] in _BULLETS or (word[0].isupper() and word[1:2].islower())


_JOINTS = {terms.AND: "and", terms.OR: "or", terms.CONTRAST: "but", terms.WITH: "with", terms.EXCEPT: "but",
           "comma": "comma"}  # fmt: skip


def split_parts(sentence: Sequence[Word]) -> list[Part]:
    """Cut a sentence at its joints, and before each negation."""
    parts = [Part("")]
    for word in sentence:
        joint = _JOINTS.get(word.term.kind)
        if joint is not None:
            lead = "colon" if word.text == ":" else joint
            if parts[-1].words:
                parts.append(Part(lead))
            elif joint != "comma" or not parts[-1].lead:
                parts[-1].lead = lead if len(parts) > 1 else ""  # ", and" is an and
        else:
            if word.term.kind in (terms.NEGATION, terms.SPARED) and any(
                earlier.term.kind not in ("", terms.FILLER, terms.SHOWS) for earlier in parts[-1].words
            ):
                parts.append(Part("negation"))
            parts[-1].words.append(word)
    return [part for part in parts if part.words]


def quote(text: str, words: Sequence[Word]) -> str:
    """Return the text from the first of some words to the last, on one line; long ones are cut."""
    return shortened(text[words[0].start : words[-1].end])


def shortened(phrase: str) -> str:
    """Return a phrase on one line; a long one is cut."""
    phrase = " ".join(phrase.split())
    return phrase if len(phrase) <= MAX_QUOTED else f"{phrase[: MAX_QUOTED - 3]}..."
