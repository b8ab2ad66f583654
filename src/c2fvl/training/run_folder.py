"""Run folders: which folder a call of training writes to, and with which settings."""

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

from c2fvl.config import Config
from c2fvl.config_files import override, parse_config
from c2fvl.files.partial import PREFIX

logger = logging.getLogger(__name__)

_BEFORE_FIRST_STATE = {"config.toml", "environment.json", "last"}

RESUMABLE_SETTINGS = (
    "data.root", "data.workers", "train.epochs", "train.minutes", "train.patience", "train.trackers",
    "train.max_hours", "train.save_minutes", "train.threads", "train.graph",
)  # fmt: skip
"""Settings that may change when a run is resumed."""


def resolve_run(
    config: Config | None,
    out: Path | str,
    run: Path | str | None,
    resume: Path | str | None,
    overrides: tuple[str, ...],
) -> tuple[Config, Path]:
    """Return the settings and the run folder, which is new, not begun (`is_begun`), or to be resumed."""
    if resume is None:
        if config is None:
            raise ValueError("give the settings of a new run, or a run folder to resume")
        config = override(config, overrides)
        if run is None and (Path(config.preset).name != config.preset or config.preset == ".."):
            raise ValueError(f"preset is {config.preset!r}, which would lead out of {out}; give it a plain name")
        folder = Path(out) / config.preset / time.strftime("%Y-%m-%d_%H-%M-%S") if run is None else Path(run)
        check_not_begun(folder)
        return config, folder
    folder = Path(resume)
    settings = folder / "config.toml"
    if folder.name in ("best", "last") and (folder.parent / "config.toml").is_file():
        raise ValueError(f"{folder} is a part of a run; give the run folder, {folder.parent}")
    if not settings.is_file():
        raise FileNotFoundError(f"{folder} is not a run folder: it has no config.toml")
    saved = parse_config(settings.read_text(encoding="utf-8"), where=str(settings))
    for item in overrides:
        if item.partition("=")[0].strip() not in RESUMABLE_SETTINGS:
            raise ValueError(
                f"{item!r} cannot change when a run is resumed; these can: {', '.join(RESUMABLE_SETTINGS)}"
            )
    config = override(saved, ("train.max_hours=0", *overrides))  # that limit belongs to the call that set it
    length, before = ((each.train.epochs, each.train.minutes) for each in (config, saved))
    if length != before and config.optimizer.schedule in ("one_cycle", "poly"):
        logger.warning(
            "the learning rates of %s depend on train.epochs and train.minutes; with other ones the run goes on with "
            "other rates than it would have had from the start",
            config.optimizer.schedule,
        )
    return config, folder


def is_begun(folder: Path) -> bool:
    """Tell whether a run folder contains more than a run has that ended before its first state was saved."""
    if not folder.is_dir():
        return folder.exists()
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(PREFIX)]
    if any(entry.name not in _BEFORE_FIRST_STATE for entry in entries):
        return True
    states = folder / "last"
    return states.is_dir() and any(not entry.name.startswith(PREFIX) for entry in states.iterdir())


def check_not_begun(folder: Path) -> None:
    """Raise `FileExistsError` where a new run would overwrite something."""
    if is_begun(folder):
        raise FileExistsError(f"{folder} already exists, and nothing in it is overwritten; give another run folder")


@contextlib.contextmanager
def lock_run(run: Path) -> Iterator[None]:
    """Lock a run folder for this process; `ValueError` if another one trains in it. On POSIX systems only."""
    if os.name != "posix":
        yield
        return
    import fcntl

    descriptor = os.open(run, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"another process is training in {run}; wait until it ends") from error
        yield
    finally:
        os.close(descriptor)
