"""Reports → the numbers that a network reads, (T, F) for each film.

A film without a report becomes rows of NaN: a value that cannot be mistaken for a report, that every network with
text understands as "not known", and that is never used as a number.

- attributes: the eight numbers of C2FVL;
- findings: side, number and zones, each known or not;
- words: numbers of words by a vocabulary taken from the captions; the network learns what they mean;
- sentence: the features that a language model gives to the tokens of the sentence (`language_model.py`).
"""

import re
from collections.abc import Iterable
from typing import Protocol

import numpy as np

from c2fvl.config import Config, DataConfig
from c2fvl.reports.findings import FINDINGS, TRUST, checked_trust, findings_of, has_findings
from c2fvl.reports.language_model import LanguageModel
from c2fvl.reports.report import Report

NO_WORD, UNKNOWN_WORD, FIRST_WORD = 0, 1, 2


class TextEncoder(Protocol):
    """One way from a report to numbers."""

    @property
    def shape(self) -> tuple[int, int]:
        """Return (T, F): tokens and numbers of each."""

    def reads(self, report: Report | None) -> bool:
        """Tell whether the report says anything that this encoder can read."""

    def prepare(self, reports: Iterable[Report | None]) -> None:
        """Do at once, and before any process is forked, what is dear in `encode`."""

    def encode(self, report: Report | None) -> np.ndarray:
        """Return (T, F) float32 in the viewer's frame; NaN for a report that cannot be read."""


class AttributeEncoder:
    """The eight attributes of C2FVL, (1, 8); a report kept as free text has none."""

    shape = (1, 8)

    def reads(self, report: Report | None) -> bool:
        """Tell whether side, number or zones are known."""
        return report is not None and report.has_attributes

    def prepare(self, reports: Iterable[Report | None]) -> None:
        """Do nothing: attributes cost nothing."""

    def encode(self, report: Report | None) -> np.ndarray:
        """Return the attributes."""
        if report is None or not self.reads(report):
            return np.full(self.shape, np.nan, np.float32)
        return np.asarray([report.in_orientation("image").attributes()], np.float32)


class FindingsEncoder:
    """Side, number, zones and trust, (1, 9), NaN for each that is not known; a trust of None is left to the network."""

    shape = (1, len(FINDINGS))

    def __init__(self, trust: float | None = None) -> None:
        self.trust = None if trust is None else checked_trust(trust)

    def reads(self, report: Report | None) -> bool:
        """Tell whether any finding is known, of a caption or of free text."""
        return has_findings(report)

    def prepare(self, reports: Iterable[Report | None]) -> None:
        """Do nothing: findings cost nothing."""

    def encode(self, report: Report | None) -> np.ndarray:
        """Return the findings."""
        row = findings_of(None if report is None else report.in_orientation("image"))[None]
        if self.trust is not None:
            row[0, TRUST] = self.trust
        return row


class WordEncoder:
    """Numbers of the first `tokens` words and marks, (tokens, 1): 0 for none, 1 for an unknown one, then the words."""

    def __init__(self, vocabulary: tuple[str, ...], tokens: int) -> None:
        self.numbers = {word: FIRST_WORD + place for place, word in enumerate(vocabulary)}
        self.shape = (tokens, 1)

    def reads(self, report: Report | None) -> bool:
        """Tell whether there is a sentence."""
        return bool(sentence_of(report))

    def prepare(self, reports: Iterable[Report | None]) -> None:
        """Do nothing: words cost nothing."""

    def encode(self, report: Report | None) -> np.ndarray:
        """Return the numbers."""
        if not self.reads(report):
            return np.full(self.shape, np.nan, np.float32)
        encoded = np.full(self.shape, NO_WORD, np.float32)
        for place, word in enumerate(words_of(sentence_of(report))[: self.shape[0]]):
            encoded[place] = self.numbers.get(word, UNKNOWN_WORD)
        return encoded


class LanguageModelEncoder:
    """Features of the first tokens by a language model, (tokens, features); rows behind the sentence's end are 0."""

    def __init__(self, config: DataConfig) -> None:
        self.model = LanguageModel.from_settings(config)
        self.shape = (config.text_tokens, self.model.num_features)

    def reads(self, report: Report | None) -> bool:
        """Tell whether there is a sentence."""
        return bool(sentence_of(report))

    def prepare(self, reports: Iterable[Report | None]) -> None:
        """Have all features at hand."""
        self.model.prepare({sentence for report in reports if (sentence := sentence_of(report))})

    def encode(self, report: Report | None) -> np.ndarray:
        """Return the features."""
        if not self.reads(report):
            return np.full(self.shape, np.nan, np.float32)
        encoded = np.zeros(self.shape, np.float32)
        features = self.model.features(sentence_of(report))
        encoded[: len(features)] = features
        return encoded


def sentence_of(report: Report | None) -> str:
    """Return a report as one sentence in the viewer's frame, as it was found where it was; "" where nothing is said."""
    if report is None:
        return ""
    report = report.in_orientation("image")
    return report.text.strip() or str(report).strip()


def words_of(sentence: str) -> list[str]:
    """Return the words and the marks of a sentence in lower case."""
    return re.findall(r"\w+|[^\w\s]", sentence.lower())


def build_text_encoder(config: DataConfig, *, trust: float | None = None) -> TextEncoder | None:
    """Return the encoder that settled settings name, or None for none; `trust` is that of every report.

    Raises `ValueError` for a trust where the network is not told findings, and for a language model that is not there
    or is not the one that the settings' checksum names.
    """
    if trust is not None and config.text != "findings":
        raise ValueError("a trust is for networks that read the film before the report; leave it out for this one")
    if config.text == "none":
        return None
    if config.text == "attributes":
        return AttributeEncoder()
    if config.text == "findings":
        return FindingsEncoder(trust)
    if config.text == "words":
        return WordEncoder(config.vocabulary, config.text_tokens)
    if config.text == "sentence":
        return LanguageModelEncoder(config)
    raise ValueError(
        "data.text is auto, which only a training settles; set attributes, findings, words, sentence or none"
    )


def text_shape(config: Config) -> tuple[int, int] | None:
    """Return (T, F) of the text that a settled configuration gives to its network, without opening a language model."""
    if config.data.text == "none":
        return None
    if config.data.text == "attributes":
        return AttributeEncoder.shape
    if config.data.text == "findings":
        return FindingsEncoder.shape
    features = 1 if config.data.text == "words" else int(config.model.arguments.get("text_features", 0))
    return (config.data.text_tokens, features)
