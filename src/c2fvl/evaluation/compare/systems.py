"""What is compared: a model, several seeds of one, or their evaluations."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from c2fvl.checkpoints.folders import find_model
from c2fvl.checkpoints.model_files import parse_settings
from c2fvl.config import Config
from c2fvl.evaluation.evaluation_folder import SUMMARY, EvaluationFolder

_SEEDS = "only seeds of one network are averaged, so name them as systems of their own"


@dataclass(frozen=True)
class System:
    """What the user named: a label, and a folder for each seed."""

    label: str | None
    folders: tuple[Path, ...]
    """Model folders, or folders of evaluations whose models may be gone."""
    settings: tuple[Config, ...]
    """Of the models; empty for evaluations."""

    @property
    def is_evaluation(self) -> bool:
        """Tell whether the folders hold evaluations."""
        return not self.settings

    @property
    def title(self) -> str:
        """Return the preset or the network's name."""
        if self.settings:
            return self.settings[0].preset or self.settings[0].model.name
        return EvaluationFolder(self.folders[0]).read_summary().model.title


def read_system(text: Path | str) -> System:
    """Return the system that `LABEL=FOLDER,FOLDER,…`, or a folder alone, names.

    Raises `FileNotFoundError` for folders that hold neither a model nor an evaluation, `ValueError` for damaged ones
    and for seeds of different networks.
    """
    label, parts = None, [str(text)]
    if not Path(text).exists():
        before, mark, after = str(text).rpartition("=")
        label, parts = (before if mark else None), (after if mark else str(text)).split(",")
        if label == "":
            raise ValueError(f"{text!r} has no label before its =; write LABEL=RUN,RUN")
    if not all(parts) or len({Path(part).resolve() for part in parts}) < len(parts):
        raise ValueError(f"{text!r} names a folder twice or none at all; write LABEL=RUN,RUN, each seed once")
    paths = tuple(map(Path, parts))
    if all(EvaluationFolder(path).exists for path in paths):
        _check_one_kind(paths)
        return System(label, paths, ())
    for path in paths:
        if (path / SUMMARY).is_file() and not EvaluationFolder(path).exists:
            raise FileNotFoundError(f"{path} holds a {SUMMARY} but no cases.csv; score the model again")
    folders = tuple(find_model(path) for path in paths)
    settings = tuple(parse_settings(folder) for folder in folders)
    for folder, config in zip(folders, settings, strict=True):
        if config.model != settings[0].model:
            raise ValueError(f"{folder} is another network than {folders[0]}; {_SEEDS}")
    return System(label, folders, settings)


def _check_one_kind(evaluations: Sequence[Path]) -> None:
    """Raise `ValueError` unless all are of one network and one kind of reports."""
    first, *others = (EvaluationFolder(path).read_summary() for path in evaluations)
    for path, other in zip(evaluations[1:], others, strict=True):
        for mine, theirs, what in (
            (first.model.name, other.model.name, "network"),
            (first.text.kind, other.text.kind, "kind of reports"),
        ):
            if mine != theirs:
                raise ValueError(f"{path} is of another {what} ({theirs}) than {evaluations[0]} ({mine}); {_SEEDS}")


def distinct_labels(systems: Sequence[System]) -> list[str]:
    """Return a name for each: the label, preset or network, made distinct by folder names where they are alike."""
    short = [system.label or system.title for system in systems]
    first = [system.folders[0] for system in systems]
    names = [folder.parent.name if folder.name == "best" else folder.name for folder in first]
    labels = [
        label if short.count(label) == 1 else f"{label} ({name})" for label, name in zip(short, names, strict=True)
    ]
    labels = [label if labels.count(label) == 1 else f"{short[row]} ({first[row]})" for row, label in enumerate(labels)]
    return [label if labels.count(label) == 1 else f"{label}, row {row}" for row, label in enumerate(labels, start=1)]
