"""Which text a network reads."""

import dataclasses
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from c2fvl.config import Config
from c2fvl.extensions import is_extension
from c2fvl.models.registry import find_network, num_classes
from c2fvl.reports.encoders import sentence_of, words_of
from c2fvl.reports.language_model import LanguageModel
from c2fvl.reports.report import Report

MAX_WORDS = 4096
"""A vocabulary has at most so many words; rarer words are unknown."""
LEARNED_FEATURES = 256
"""Default of model.arguments.text_features, the learned features of a word."""
_READABLE = {
    "attributes": ("attributes", "none"),
    "findings": ("findings", "none"),
    "sentence": ("words", "sentence", "none"),
    "none": ("none",),
}


def text_kind(config: Config) -> str:
    """Return data.text with "auto" resolved. Raises `ValueError` for a text that the network cannot read."""
    reads, text = find_network(config.model.name).text, config.data.text
    if text == "auto":
        return {"sentence": "sentence" if config.data.text_model else "words"}.get(reads, reads)
    if text not in _READABLE[reads]:
        raise ValueError(
            f"data.text is {text}, which the network {config.model.name} cannot read; set data.text=auto, or one of "
            f"{', '.join(_READABLE[reads])}"
        )
    return text


def settle_text(config: Config, reports: Iterable[Report | None]) -> Config:
    """Return the settings with everything that depends on the training reports: text, vocabulary, arguments.

    The settings of a run are then complete: its model does not need the captions. Settled settings stay as they are.
    Raises `ValueError` for settings that contradict each other.
    """
    kind, data = text_kind(config), config.data
    wanted: dict[str, int] = {}
    free = dict(config.model.arguments)
    if kind == "words":
        data = dataclasses.replace(data, vocabulary=data.vocabulary or _vocabulary(reports))
        free.setdefault("text_features", LEARNED_FEATURES)
        wanted = {"text_tokens": data.text_tokens, "vocabulary_size": len(data.vocabulary)}
    elif kind == "sentence":
        model = LanguageModel.from_settings(data)
        location = str(model.folder.resolve()) if Path(data.text_model).expanduser().is_dir() else data.text_model
        data = dataclasses.replace(data, text_fingerprint=model.fingerprint, text_model=location)
        wanted = {"text_tokens": data.text_tokens, "text_features": model.num_features, "vocabulary_size": 0}
    elif find_network(config.model.name).text == "sentence":
        wanted = {"text_tokens": 0}
    if is_extension(config.model.name):  # so that its class is not needed to read the settings
        free.setdefault("num_classes", num_classes(config.model))
    for name, value in wanted.items():
        if free.setdefault(name, value) != value:
            raise ValueError(
                f"model.arguments.{name} is {free[name]}, but data.text={kind} needs {value}; leave it out"
                + (", or change data.text_tokens" if name == "text_tokens" else "")
            )
    return dataclasses.replace(
        config,
        data=dataclasses.replace(data, text=kind),
        model=dataclasses.replace(config.model, arguments=free),
    )


def _vocabulary(reports: Iterable[Report | None]) -> tuple[str, ...]:
    """Return the words of all reports and of the mirrored reports, the most frequent first."""
    counts: Counter[str] = Counter()
    for report in reports:
        if report is not None:
            counts.update(words_of(sentence_of(report)))
            counts.update(words_of(sentence_of(report.mirrored())))
    if not counts:
        raise ValueError(
            "no training case has a report, so there are no words to learn; add a caption table, or set data.text=none"
        )
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    return tuple(ordered[:MAX_WORDS])
