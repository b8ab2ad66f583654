"""The files of a model folder and its manifest, which has the checksum of each of them. No torch.

Every file is compared with the manifest when it is read. A command that changes files first writes their new checksums
beside the old ones, then the files, then the manifest without the old ones. So after a crash at any moment each file
still matches.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from c2fvl.checkpoints import folders
from c2fvl.checkpoints.folders import CALIBRATION, CARD, GRAPH, METRICS, OOD_DETECTOR, SETTINGS, TRUST_CURVE, WEIGHTS
from c2fvl.config import Config
from c2fvl.config_files import parse_config
from c2fvl.files import storage
from c2fvl.files.parsing import parse_json
from c2fvl.files.storage import MANIFEST

logger = logging.getLogger(__name__)

MODEL_FILES = (WEIGHTS, SETTINGS, METRICS, CALIBRATION, TRUST_CURVE, OOD_DETECTOR, GRAPH, CARD)
MAX_SMALL_BYTES = 64 * 2**20
"""Largest file beside the weights that is read."""
REDO = {
    CALIBRATION: "`c2fvl calibrate`",
    TRUST_CURVE: "`c2fvl fit-trust --keep`",
    OOD_DETECTOR: "`c2fvl fit-ood`",
    GRAPH: "`c2fvl export`",
}
"""The command that writes a file anew, whatever there is of it."""
_NEXT = "next"
"""In an entry of the manifest, while the file is being replaced: the entry of the new file."""


class ModelFiles:
    """Reads the files of one model folder and compares each with the manifest.

    The card is text for people and may be edited: a changed one is only said in the log. Raises `ValueError` for a
    damaged manifest, and where a model of the package or of a checkout has none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries = _read_entries(folder)
        """None without a manifest."""
        if self.entries is None and folders.comes_along(folder):
            raise ValueError(
                f"{folder} has no {MANIFEST}, so these weights cannot be checked and are not used; install the package "
                "or get the checkout again"
            )

    def read(self, name: str) -> bytes | None:
        """Return the content of a file, None where there is none; `ValueError` where it does not match the manifest."""
        file = self.folder / name
        data = None
        if file.is_file():
            if name != WEIGHTS and file.stat().st_size > MAX_SMALL_BYTES:
                raise ValueError(f"{file} has more than {MAX_SMALL_BYTES:,} bytes, so it is no file of a model folder")
            data = folders.read(file)
        if self.entries is None or self._state(name, data) is not None:
            return data
        if name == CARD:
            if data is not None:
                logger.warning("%s was changed after it was written: it does not match %s", file, MANIFEST)
            return data
        if data is None:
            reason = f"is missing, but {MANIFEST} lists it"
        elif name not in self.entries:
            reason = f"is not listed in {MANIFEST}: it was put there by hand"
        else:
            reason = f"does not match its checksum in {MANIFEST}: it was damaged or changed, or is of another model"
        remedy = f"run {REDO[name]}" if name in REDO else "resume the run"
        raise ValueError(
            f"{file} {reason}; get the model again, or {remedy}, or delete {MANIFEST} to use the files as they are, "
            "unchecked"
        )

    def need(self, name: str) -> bytes:
        """Return the content of a file that every model folder has; `ValueError` where it is missing."""
        data = self.read(name)
        if data is None:
            raise ValueError(f"{self.folder / name} is missing or no regular file; get the model again")
        return data

    def settings(self) -> Config:
        """Return the settings; `ValueError` where they are damaged."""
        return parse_config(self.need(SETTINGS).decode("utf-8", "replace"), where=str(self.folder / SETTINGS))

    def is_half_written(self) -> bool:
        """Tell whether a command was interrupted when it had replaced some of its files and not the others."""
        replaced = [name for name, entry in (self.entries or {}).items() if _NEXT in entry]
        return len({self._state(name, _content(self.folder / name)) for name in replaced}) > 1

    def _state(self, name: str, data: bytes | None) -> str | None:
        """Return which entry of the manifest a content matches, "old" or "next"; None for neither."""
        entry = (self.entries or {}).get(name, {})
        found = None if data is None else _entry(data)
        if _NEXT in entry and entry[_NEXT] == found:
            return _NEXT
        before = {key: value for key, value in entry.items() if key != _NEXT} or None
        return "old" if before == found else None


def open_folder(folder: Path) -> ModelFiles:
    """Return the files of a model folder; one without a manifest is a warning in the log."""
    files = ModelFiles(folder)
    if files.entries is None:
        logger.warning("%s has no %s, so its files cannot be checked for damage", folder, MANIFEST)
    return files


def parse_settings(folder: Path) -> Config:
    """Return the settings of a model folder; `ValueError` where they are damaged."""
    return ModelFiles(folder).settings()


def write_files(folder: Path, changed: Mapping[str, bytes]) -> None:
    """Write files of a model folder and their checksums into its manifest.

    A folder without a manifest gets one of all its files. Raises `ValueError` where the manifest is damaged.
    """
    entries = _read_entries(folder)
    if entries is None:
        known = {name: _content(folder / name) for name in MODEL_FILES}
        entries = {name: _entry(data) for name, data in known.items() if data is not None}
    for name, entry in list(entries.items()):
        if _NEXT in entry:  # another command was interrupted
            data = _content(folder / name)
            matches = data is not None and _entry(data) == entry[_NEXT]
            entries[name] = entry[_NEXT] if matches else {key: entry[key] for key in entry if key != _NEXT}
    entries = {name: entry for name, entry in entries.items() if entry}
    new = {name: _entry(data) for name, data in changed.items()}
    storage.write_json(
        folder / MANIFEST, {**entries, **{name: {**entries.get(name, {}), _NEXT: new[name]} for name in new}}
    )
    for name, data in changed.items():
        storage.write_bytes(folder / name, data)
    storage.write_json(folder / MANIFEST, {**entries, **new})


def check_target(folder: Path, out: Path | str | None, command: str) -> None:
    """Raise `ValueError` where `command` must not change a model folder, `FileExistsError` where its copy exists.

    `out` is where a changed copy is to be written; None changes the folder itself, which is refused for models of the
    package and of a checkout, because everyone who names them would get the change.
    """
    if out is not None:
        storage.check_new_folder(out)
        storage.check_folder(out, what="changed copy of the model", replaced=True)
    elif folders.comes_along(folder):
        raise ValueError(
            f"{folder} comes with the package and is not changed, because it would change for everyone; "
            f"`{command} … --out FOLDER` writes a changed copy"
        )
    else:
        storage.check_folder(folder, what="change of the model")


def write_changed(folder: Path, changed: Mapping[str, bytes], out: Path | str | None = None) -> Path:
    """Write files into a model folder, or a copy of it with these files to `out`; return the folder that was written.

    Whether it may be changed is `check_target`'s to say. Raises `FileExistsError` and `ValueError` as `new_folder` and
    `write_files` do.
    """
    if out is None:
        write_files(folder, changed)
        return folder
    files = ModelFiles(folder)
    kept = {name: data for name in MODEL_FILES if name not in changed and (data := files.read(name)) is not None}
    with storage.new_folder(out) as copy:
        write_files(copy, {**kept, **changed})
    return Path(out)


def _content(file: Path) -> bytes | None:
    return folders.read(file) if file.is_file() else None


def _entry(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": storage.checksum(data)}


def _read_entries(folder: Path) -> dict[str, dict[str, Any]] | None:
    """Return the entry of each file, None without a manifest; `ValueError` where the manifest is damaged."""
    file = folder / MANIFEST
    if not file.exists():
        return None
    try:
        if not file.is_file() or file.stat().st_size > MAX_SMALL_BYTES:
            raise ValueError("it is no regular file, or too large")
        found = parse_json(folders.read(file))
        for name, entry in found.items():
            if name not in MODEL_FILES:
                raise ValueError(f"it lists {name!r}, which is no file of a model folder")
            for one in (entry, entry.get(_NEXT, {})):
                if not (set(one) - {_NEXT} in ({"bytes", "sha256"}, set()) and (one is not entry or entry)):
                    raise ValueError(f"its entry of {name} is not whole")
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file} is damaged: {error}; get the model again, or delete {MANIFEST} to use the files as they are, "
            "unchecked"
        ) from error
    return {name: dict(entry) for name, entry in found.items()}
