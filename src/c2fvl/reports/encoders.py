"""Encode reports as the numbers that a network reads, (T, F) for each image.

An image without a report becomes rows of NaN. Every network with text takes NaN as "not known" and never uses it as a
number. Reports are in image orientation; they are converted where they enter, in `scan` and in `Predictor`.

- attributes: the eight numbers of C2FVL;
- findings: side, number and zones, each known or not;
- words: indices of words in a vocabulary taken from the captions; the network learns what they mean;
- sentence: the features that a language model gives to the tokens of the sentence (`language_model.py`).
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable

import numpy as np

from c2fvl.config import Config, DataConfig
from c2fvl.reports.findings import FINDINGS, TRUST, checked_trust, findings_of, has_findings
from c2fvl.reports.language_model import LanguageModel
from c2fvl.reports.report import Report

NO_WORD, UNKNOWN_WORD, FIRST_WORD = 0, 1, 2


class TextEncoder(ABC):
    """One way to encode reports."""

    shape: tuple[int, int]
    """(T, F): tokens and numbers of each."""

    @abstractmethod
    def reads(self, report: Report | None) -> bool:
        """Tell whether the report, in either orientation, says anything that this encoder can read."""

    def prepare(self, reports: Iterable[Report | None]) -> None:  # noqa: B027 - most encoders have nothing to prepare
        """Do the expensive work of `encode` for all reports at once, before any process is forked."""

    def encode(self, report: Report | None) -> np.ndarray:
        """Return (T, F) float32 for a report in image orientation; NaN for one that cannot be read."""
        if report is None or not self.reads(report):
            return np.full(self.shape, np.nan, np.float32)
        return self._encode(report)

    @abstractmethod
    def _encode(self, report: Report) -> np.ndarray:
        """Return (T, F) float32 for a report that can be read."""


class AttributeEncoder(TextEncoder):
    """The eight attributes of C2FVL, (1, 8); free text has none."""

    shape = (1, 8)

    def reads(self, report: Report | None) -> bool:
        """Tell whether side, number or zones are known."""
        return report is not None and report.has_attributes

    def _encode(self, report: Report) -> np.ndarray:
        return np.asarray([report.attributes()], np.float32)


class FindingsEncoder(TextEncoder):
    """Side, number, zones and trust, (1, 9), NaN for each that is not known.

    With a trust of None the network uses its own.
    """

    shape = (1, len(FINDINGS))

    def __init__(self, trust: float | None = None) -> None:
        self.trust = None if trust is None else checked_trust(trust)

    def reads(self, report: Report | None) -> bool:
        """Tell whether any finding is known, of a caption or of free text."""
        return has_findings(report)

    def encode(self, report: Report | None) -> np.ndarray:
        """Return the findings, with the trust also for an image without a report."""
        row = super().encode(report)
        if self.trust is not None:
            row[0, TRUST] = self.trust
        return row

    def _encode(self, report: Report) -> np.ndarray:
        return findings_of(report)[None]


class _SentenceEncoder(TextEncoder):
    def reads(self, report: Report | None) -> bool:
        """Tell whether there is a sentence."""
        return report is not None and bool(report.text.strip() or report.has_attributes)


class WordEncoder(_SentenceEncoder):
    """Indices of the first `tokens` words and marks, (tokens, 1): 0 for none, 1 for an unknown word, then the words."""

    def __init__(self, vocabulary: tuple[str, ...], tokens: int) -> None:
        self.indices = {word: FIRST_WORD + index for index, word in enumerate(vocabulary)}
        self.shape = (tokens, 1)

    def _encode(self, report: Report) -> np.ndarray:
        encoded = np.full(self.shape, NO_WORD, np.float32)
        for position, word in enumerate(words_of(sentence_of(report))[: self.shape[0]]):
            encoded[position] = self.indices.get(word, UNKNOWN_WORD)
        return encoded


class LanguageModelEncoder(_SentenceEncoder):
    """Features of the first tokens by a language model, (tokens, features); rows after the last token are 0."""

    def __init__(self, config: DataConfig) -> None:
        self.model = LanguageModel.from_settings(config)
        self.shape = (config.text_tokens, self.model.num_features)

    def prepare(self, reports: Iterable[Report | None]) -> None:
        """Compute the features of all sentences, or read them from the cache."""
        self.model.prepare({sentence for report in reports if (sentence := sentence_of(report))})

    def _encode(self, report: Report) -> np.ndarray:
        encoded = np.zeros(self.shape, np.float32)
        features = self.model.features(sentence_of(report))
        encoded[: len(features)] = features
        return encoded


def sentence_of(report: Report | None) -> str:
    """Return a report, in image orientation, as one sentence: its own text, or else the canonical one; "" for none."""
    if report is None:
        return ""
    report.check_image_orientation()
    return report.text.strip() or str(report).strip()


def words_of(sentence: str) -> list[str]:
    """Return the words and marks of a sentence in lower case."""
    return re.findall(r"\w+|[^\w\s]", sentence.lower())


def build_text_encoder(config: DataConfig, *, trust: float | None = None) -> TextEncoder | None:
    """Return the encoder that the settings of a trained network name, or None for none; `trust` is for every report.

    Raises `ValueError` for a trust if the network reads no findings, and for a language model that is missing or is not
    the one that the settings' checksum names.
    """
    if trust is not None and config.text != "findings":
        raise ValueError("this network takes no trust; leave trust out. Only networks that read findings take one.")
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
        "data.text is auto, which only training resolves; set attributes, findings, words, sentence or none"
    )


def text_shape(config: Config) -> tuple[int, int] | None:
    """Return (T, F) of the text that a network reads, by its settings and without loading a language model."""
    if config.data.text == "none":
        return None
    if config.data.text == "attributes":
        return AttributeEncoder.shape
    if config.data.text == "findings":
        return FindingsEncoder.shape
    features = 1 if config.data.text == "words" else int(config.model.arguments.get("text_features", 0))
    return (config.data.text_tokens, features)
