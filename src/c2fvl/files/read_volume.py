"""Read a CT volume from whatever holds it: a NIfTI file, a DICOM slice, a folder or a list of slices."""

import os
from collections.abc import Sequence
from pathlib import Path

from c2fvl.files import shards
from c2fvl.files.ct_series import read_series
from c2fvl.files.kinds import HEAD_BYTES, is_ct, is_readable_kind, kind_of
from c2fvl.files.nifti import read_nifti_volume
from c2fvl.files.volume import Volume


def read_volume(source: Path | str | Sequence[Path | str]) -> Volume:
    """Read a volume.

    Of a folder all CT slices are taken, which must belong to one series. Raises `FileNotFoundError`, and `ValueError`
    for what is no CT volume; errors name the source.
    """
    if not isinstance(source, str | os.PathLike):
        return read_series(source)
    path = Path(source)
    try:
        if path.is_dir():
            return read_series(
                entry for entry in sorted(path.iterdir()) if is_readable_kind(entry) and is_ct_file(entry)
            )
        kind = kind_of(shards.read_bytes(path, count=HEAD_BYTES))
        if kind == "nifti":
            return read_nifti_volume(shards.in_memory(path))
        if kind == "dicom":
            return read_series([path])
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: there is no such file or folder; check the name") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    raise ValueError(f"{path}: this is no CT volume; expected NIfTI, or the slices of a DICOM series")


def is_ct_file(path: Path) -> bool:
    """Tell whether a file is a CT image of DICOM, also one that cannot be segmented, such as a scout."""
    with path.open("rb") as file:
        return is_ct(file.read(HEAD_BYTES))
