"""The wheel of monailabel, which `make .venv/monailabel` downloads: parts of it are unpacked, nothing is installed."""

import sys
import zipfile
from pathlib import Path

MISSING = "the wheel of monailabel is not there: make .venv/monailabel"


def find_wheel() -> Path | None:
    """Return the wheel; None where it could not be downloaded."""
    return next(iter(sorted(Path(sys.prefix).glob("monailabel.wheel/monailabel-*.whl"))), None)


def unpack(wheel: Path, below: str, folder: Path) -> Path:
    """Unpack the files of the wheel that lie below a folder; return this folder."""
    with zipfile.ZipFile(wheel) as content:
        content.extractall(folder, [name for name in content.namelist() if name.startswith(f"{below}/")])
    return folder / below
