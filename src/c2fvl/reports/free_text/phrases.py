"""What turns the meaning of a sentence: comparisons with earlier images, advice, causes, unknown words. No torch."""

from collections.abc import Sequence
from itertools import pairwise

from c2fvl.reports.free_text import terms
from c2fvl.reports.free_text.neutral_words import NEUTRAL
from c2fvl.reports.free_text.words import Word
from c2fvl.reports.zones import OTHER_HAND

_REFERENCE_STARTS = frozenset({"since", "compared", "comparison", "relative", "than"})
_REFERENCE_MARKS = frozenset({
    "previous", "prior", "last", "earlier", "yesterday", "ago", "admission", "imaging", "scan", "studies", "films",
    "radiographs", "previously",
})  # fmt: skip
_REFERENCE_WORDS = _REFERENCE_MARKS | frozenset({
    "to", "with", "the", "a", "an", "that", "of", "on", "from", "in", "dated", "day", "days", "week", "weeks", "month",
    "months", "most", "recent", "taken", "performed", "obtained", "image", "images", "/", "january", "february",
    "march", "april", "may", "june", "july", "august", "september", "october", "november", "december", "one", "two",
    "three",
})  # fmt: skip
_LESSER = frozenset({"less", "smaller", "fewer", "better", "lower", "fainter", "<"})
"""With a comparison with an earlier image these leave open how much is left."""
_ADVICE = frozenset({"follow up", "followup", "repeat"})
_ADVISED = frozenset({
    "advised", "advise", "recommended", "recommend", "recommends", "suggested", "needed", "required", "requested",
    "please", "until", "ensure", "document", "confirm", "weeks", "months", "to",
})  # fmt: skip
_ADVISING = frozenset({
    "suggest", "suggests", "recommend", "recommends", "recommended", "advise", "advised", "please", "a", "for", "with",
    "and", "needs", "requires", ",", "-", "–", "—", "is", "short", "interval",
})  # fmt: skip
_LYING = frozenset({"lying", "decubitus", "turned", "tilted", "leaning", "leans"})
_PREPOSITIONS = frozenset({"at", "in", "within", "behind", "above", "below", "beside", "next", "near", "along"})
_REFERRING = frozenset({"this", "these", "it", "they", "that", "which", "the", "such", "both", "all"})
_BELONGING = frozenset({"adjacent", "underlying", "associated", "ipsilateral", "accompanying"})


def without_references(sentence: list[Word]) -> list[Word]:
    """Leave out comparisons such as "since the previous film": what has grown since then is there now.

    A sentence in which something is smaller or looks back in another way stays as it is.
    """
    kept: list[Word] = []
    index = 0
    while index < len(sentence):
        end = _end_of_reference(sentence, index)
        if end == index:
            kept.append(sentence[index])
            end += 1
        index = end
    is_lesser = any(word.text.lower() in _LESSER and word.term.kind != terms.PLACE for word in kept)
    return sentence if is_lesser else kept


def _end_of_reference(sentence: Sequence[Word], start: int) -> int:
    if sentence[start].text.lower() not in _REFERENCE_STARTS:
        return start
    end, is_time = start + 1, False
    while end < len(sentence):
        word, text = sentence[end], sentence[end].text.lower()
        is_mark = text in _REFERENCE_MARKS or word.term.kind == terms.EXAM or text[:1].isdigit()
        if not is_mark and text not in _REFERENCE_WORDS:
            break
        is_time |= is_mark
        end += 1
    return end if is_time else start


def without_advice(sentence: list[Word]) -> list[Word]:
    """Leave out what is advised: "follow up to resolution" says nothing of this image."""
    for index, word in enumerate(sentence):
        if word.text.lower().replace("-", " ") in _ADVICE:
            rest = {later.text.lower() for later in sentence[index:]}
            before = {earlier.text.lower() for earlier in sentence[:index]}
            if not (rest | before) & _ADVISED and not before <= _ADVISING:
                continue
            end = index
            while end and sentence[end - 1].text.lower() in _ADVISING:
                end -= 1
            return sentence[:end]
    return sentence


def has_other_cause(sentence: Sequence[Word]) -> bool:
    """Tell whether a finding is put down to something that is no infection: "due to overlying soft tissue"."""
    for index, word in enumerate(sentence):
        rest = {later.term.kind for later in sentence[index + 1 :]}
        before = {earlier.term.kind for earlier in sentence[:index]}
        is_other = bool(rest & {terms.OTHER, terms.ORGAN})
        if word.text == "=" and is_other:
            return True
        if word.text.lower() in terms.MIMICS and terms.FINDING in before | rest:
            return True
        if word.term.kind == terms.CAUSE and (is_other or terms.FINDING not in rest):
            return True
        if word.text.lower() == "from" and is_other and terms.FINDING in before:
            return True
        near = {later.term.kind for later in sentence[index + 1 : index + 3]}
        if word.text.lower() in ("is", "are") and terms.FINDING in before and near & {terms.OTHER, terms.ORGAN}:
            return True
    return False


def unknown_words(sentence: Sequence[Word]) -> list[str]:
    """Return the words of which the reader does not know whether they turn the meaning of the others."""
    return [
        word.text
        for word in sentence
        if not word.term.kind and word.text[:1] not in terms.NEUTRAL_MARKS and not word.text[:1].isdigit()
        and not set(word.text.lower().replace("’", "'").split()) <= NEUTRAL
    ]  # fmt: skip


def refers_back(sentence: Sequence[Word]) -> bool:
    """Tell whether a sentence without a place casts doubt on what was said before it: "Now resolved."."""
    kinds = {word.term.kind for word in sentence}
    is_question = any(word.text == "?" for word in sentence)
    doubts = kinds & {terms.UNSURE, terms.EARLIER, terms.RESOLVED, terms.DENIAL, terms.CAUSE}
    if terms.OTHER in kinds and "one" in [word.text.lower() for word in sentence[:4]]:
        return True  # "the left one is the nipple"
    if terms.PLACE in kinds or not (doubts or is_question):
        return False
    if sentence[0].text.lower() in _REFERRING:
        return True
    if terms.FINDING in kinds:
        return terms.RESOLVED in kinds or (terms.EARLIER in kinds and terms.UNSURE not in kinds)
    is_opaque = any(word.term.kind == terms.OTHER and word.term.value == "opaque" for word in sentence)
    return is_opaque or not kinds & {terms.OTHER, terms.ORGAN, terms.HEADER}


def has_doubtful_lobe(sentence: Sequence[Word]) -> bool:
    """Tell whether a lobe that only one lung has (lingula, middle lobe) is given to the other lung."""
    for index, word in enumerate(sentence):
        if word.text.lower() not in ("lingula", "lingular", "middle lobe"):
            continue
        other = OTHER_HAND[next(iter(word.term.place.hands))]
        behind = [later for later in sentence[index + 1 : index + 5] if later.text.lower() != "the"]
        if behind and behind[0].text.lower() in ("of", "in", "on"):
            hands = behind[1].term.place.hands if len(behind) > 1 else frozenset()
            if other in hands:
                return True
        is_noun = False
        for earlier in reversed(sentence[:index]):
            if earlier.term.kind not in (terms.PLACE, terms.AND, "comma", ""):
                break
            place = earlier.term.place
            is_noun |= place.is_noun
            if place.heights and is_noun:
                break
            if other in place.hands:
                return True
    return False


def has_doubtful_hand(sentence: Sequence[Word]) -> bool:
    """Tell whether a side may be none of the finding.

    It is one of two ("either base"), said to be that of the image, the side on which the patient lies, or an adverb
    ("right at the left base", "no opacity left in the right lung").
    """
    texts = [word.text.lower() for word in sentence]
    is_denied = any(word.term.kind in (terms.NEGATION, terms.DENIAL) for word in sentence)
    of_image = any(
        word.term.kind == terms.EXAM and texts[index - 1] in ("of", "the") and any(
            earlier.term.place.is_bare_hand for earlier in sentence[max(0, index - 4) : index]
        )
        for index, word in enumerate(sentence)
    )  # fmt: skip
    is_adverb = any(
        text in ("left", "right") and following in _PREPOSITIONS and before.term.kind in (terms.FINDING, terms.SHOWS)
        for before, text, following in zip(sentence, texts[1:], texts[2:], strict=False)
    )  # fmt: skip
    is_lying = bool(_LYING & set(texts))
    return of_image or is_adverb or is_lying or ("either" in texts and not is_denied)


def has_less(sentence: Sequence[Word]) -> bool:
    """Tell whether there is less of a finding than before: "less opacity in the left base"."""
    return any(
        word.text.lower() in _LESSER and following.term.kind == terms.FINDING for word, following in pairwise(sentence)
    )


def belongs_to_neighbour(words: Sequence[Word]) -> bool:
    """Tell whether words say that a finding is where its neighbour is: "with adjacent consolidation"."""
    return any(token in _BELONGING for word in words for token in word.text.lower().split())
