"""Write cases as tar shards with an index and checksums; `shard_layout.py` reads them.

Each shard is written whole or not at all, and its index after it. A call that was interrupted goes on where it stopped:
shards that are complete and still fit their cases are kept.
"""

import hashlib
import json
import tarfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import cv2
import numpy as np

from c2fvl.data.file_names import split_name
from c2fvl.data.prefetch import prefetch
from c2fvl.data.scan import find_splits, scan
from c2fvl.data.shard_layout import FORMAT, json_of, read_manifest
from c2fvl.files import shards, storage
from c2fvl.files.images import read_image_bytes, read_pixels
from c2fvl.files.kinds import HEAD_BYTES, kind_of
from c2fvl.files.partial import PREFIX, sole_user
from c2fvl.progress import SILENT, Progress

SHARD_BYTES = 256 * 10**6
"""Bytes of a shard, at most, unless a single case is larger."""
_WORKERS, _AHEAD = 4, 16
_END = bytes(2 * tarfile.BLOCKSIZE)
_ENDINGS = {"png": ".png", "jpeg": ".jpg", "tiff": ".tif", "dicom": ".dcm", "nifti": ".nii"}
"""Of files whose own name has none of these endings, by what they hold."""


@dataclass(frozen=True)
class ShardCase:
    """One case that is to be written."""

    split: str
    image: Path
    mask: Path | None
    about: Mapping[str, Any]
    """What its JSON holds; "id" names the case."""

    @property
    def key(self) -> str:
        """The name of the case in the tar: its id with dots escaped, because a key ends at the first dot."""
        return quote(str(self.about["id"]), safe="").replace(".", "%2E")


@dataclass(frozen=True)
class _Files:
    """The files of one case in a tar by name, and by how much its image differs from the original."""

    image: tuple[str, bytes]
    mask: tuple[str, bytes] | None
    about: tuple[str, bytes]
    row: dict[str, Any]

    @property
    def all(self) -> list[tuple[str, bytes]]:
        return [self.image, *([] if self.mask is None else [self.mask]), self.about]

    @property
    def size(self) -> int:
        return sum(len(_header(name, len(data))) + _padded(len(data)) for name, data in self.all)


def cases_of(root: Path | str, *, splits: Iterable[str] | None = None, table: str | None = None) -> list[ShardCase]:
    """Return the cases of a data set in the order in which they are written. Raises as `scan`."""
    return [
        ShardCase(split, case.image, case.mask, json_of(case, split))
        for split in (find_splits(root) if splits is None else splits)
        for case in scan(root, split, table=table)
    ]


def write_shards(
    cases: Sequence[ShardCase],
    out: Path | str,
    *,
    size: int = SHARD_BYTES,
    jpeg_quality: int | None = None,
    table: str | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Write cases to the folder `out` as shards of at most `size` bytes, named by their split; return the manifest.

    Images and masks keep the bytes of their files. `jpeg_quality` (1 to 100) stores images as JPEG, and masks as PNG of
    the same values in as few bits as possible; how far the images are then from the originals is in the manifest.
    `table` is written down as the source of the reports. Where `out` holds a part of the same shards, the rest is
    written.

    Raises `FileExistsError` where `out` holds anything else, and `ValueError` for cases that cannot be written, for
    shards of other cases or settings, and where another process writes to `out`.
    """
    out = Path(out)
    if jpeg_quality is not None and not 1 <= jpeg_quality <= 100:
        raise ValueError(f"the JPEG quality must be between 1 and 100, got {jpeg_quality}")
    _check_cases(cases)
    storage.check_folder(out, what="shards")
    storage.make_folder(out)
    settings = {"size": size, "jpeg_quality": jpeg_quality, "table": table}
    with sole_user(out) as alone:
        if not alone:
            raise ValueError(f"{out}: another process writes shards there; wait for it, or name another folder")
        _begin(out, settings)
        return _write_all(cases, out, settings, progress)


def _write_all(
    cases: Sequence[ShardCase], out: Path, settings: Mapping[str, Any], progress: Progress
) -> dict[str, Any]:
    entries: list[dict[str, Any]] = []
    done, number, split = 0, 0, ""
    error_sum, max_error = 0.0, 0
    while done < len(cases):
        number = number + 1 if cases[done].split == split else 0
        split = cases[done].split
        shard = out / f"{split}-{number:06d}{shards.ENDING}"
        index = _kept(shard, cases, done) or _write_shard(shard, cases, done, settings, progress)
        done += len(index["cases"])
        error_sum += sum(row["error"][0] for row in index["cases"])
        max_error = max(max_error, *(row["error"][1] for row in index["cases"]))
        progress.advance(done, len(cases))
        entries.append({
            "file": shard.name, "split": split, "num_cases": len(index["cases"]), "bytes": index["bytes"],
            "sha256": index["sha256"], "index_sha256": storage.checksum(shards.index_path(shard).read_bytes()),
        })  # fmt: skip
    known = {entry["file"] for entry in entries}
    others = sorted(path.name for path in out.glob(f"*{shards.ENDING}") if path.name not in known)
    if others:
        raise ValueError(
            f"{out} holds {others[0]}, which is no shard of these cases; remove it, or name another folder"
        )
    quality = settings["jpeg_quality"]
    manifest = {
        "format": FORMAT, "complete": True, "settings": dict(settings),
        "num_cases": {
            split: sum(entry["num_cases"] for entry in entries if entry["split"] == split)
            for split in dict.fromkeys(entry["split"] for entry in entries)
        },
        "images": "as they are" if quality is None else f"JPEG, quality {quality}",
        "mean_error_grey_levels": round(error_sum / len(cases), 4), "max_error_grey_levels": max_error,
        "shards": entries,
    }  # fmt: skip
    storage.write_json(out / storage.MANIFEST, manifest)
    return manifest


def _check_cases(cases: Sequence[ShardCase]) -> None:
    """Raise `ValueError` for no case, and for two of one name in a split."""
    if not cases:
        raise ValueError("there is no case to write; name a data set that holds one")
    seen: dict[tuple[str, str], ShardCase] = {}
    for case in cases:
        other = seen.setdefault((case.split, case.key), case)
        if other is not case:
            raise ValueError(f"{other.image} and {case.image} are both the case {case.about['id']}; rename one of them")


def _begin(out: Path, settings: Mapping[str, Any]) -> None:
    """Write the manifest of a new folder; raise where the folder holds something else."""
    manifest = read_manifest(out)
    if manifest is not None:
        if manifest["settings"] != settings:
            raise ValueError(
                f"{out} holds shards that were written with other settings ({_shown(manifest['settings'])}, now "
                f"{_shown(settings)}); name another folder"
            )
        return
    if any(not path.name.startswith(PREFIX) for path in out.iterdir()):
        raise FileExistsError(f"{out} holds files that are no shards, and nothing is overwritten; name another folder")
    storage.write_json(
        out / storage.MANIFEST, {"format": FORMAT, "complete": False, "settings": dict(settings), "shards": []}
    )


def _shown(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items() if value is not None)


def _kept(shard: Path, cases: Sequence[ShardCase], start: int) -> dict[str, Any] | None:
    """Return the index of a shard that an earlier call wrote; None where it is to be written.

    Raises `ValueError` where it does not fit the cases from `start` on.
    """
    path = shards.index_path(shard)
    if not path.is_file() or not shard.is_file():
        return None
    index, written = shards.read_index(shard), path.stat().st_mtime_ns
    expected = cases[start : start + len(index["cases"])]
    for case, found in zip(expected, index["cases"], strict=False):
        sources = [file for file in (case.image, case.mask) if file is not None]
        if any(found.get(name) != value for name, value in _row(case).items()) or any(
            shards.holder_of(file).stat().st_mtime_ns > written for file in sources
        ):
            raise ValueError(
                f"{shard} was written of other cases, or {case.image} was changed since; name another folder"
            )
    if len(expected) < len(index["cases"]):
        raise ValueError(f"{shard} holds more cases than there are now; name another folder")
    return index


def _row(case: ShardCase) -> dict[str, Any]:
    """Return what an index says of a case, but for the places of its files in the shard."""
    sizes = [None if file is None else shards.file_size(file) for file in (case.image, case.mask)]
    return {**case.about, "source_bytes": sizes}


def _write_shard(
    shard: Path, cases: Sequence[ShardCase], start: int, settings: Mapping[str, Any], progress: Progress
) -> dict[str, Any]:
    """Write the cases of one split from `start` on, as many as fit, as a shard and its index; return the index."""
    split = cases[start].split
    of_split = takewhile(lambda case: case.split == split, (cases[index] for index in range(start, len(cases))))
    group: list[_Files] = []
    size = len(_END)
    for files in prefetch(
        lambda case: _files_of(case, settings["jpeg_quality"]), of_split, workers=_WORKERS, maximum=_AHEAD
    ):
        size += files.size
        if group and size > settings["size"]:
            break
        group.append(files)
        progress.advance(start + len(group), len(cases))
    rows: list[dict[str, Any]] = []
    with storage.new_file(shard) as file:
        digest, offset = hashlib.sha256(), 0
        for files in group:
            row = dict(files.row)
            for kind, member in (("image", files.image), ("mask", files.mask), ("json", files.about)):
                if member is None:
                    row[kind] = None
                    continue
                name, data = member
                header = _header(name, len(data))
                if kind != "json":
                    row[kind] = {
                        "name": name, "offset": offset + len(header), "bytes": len(data), "crc32": zlib.crc32(data)
                    }  # fmt: skip
                offset += _write(file, digest, header, data, bytes(_padded(len(data)) - len(data)))
            rows.append(row)
        offset += _write(file, digest, _END)
    index = {
        "format": shards.INDEX_FORMAT, "shard": shard.name, "bytes": offset, "sha256": digest.hexdigest(), "cases": rows
    }  # fmt: skip
    storage.write_bytes(shards.index_path(shard), json.dumps(index, ensure_ascii=False, allow_nan=False).encode())
    return index


def _write(file: BinaryIO, digest: Any, *parts: bytes) -> int:
    for part in parts:
        file.write(part)
        digest.update(part)
    return sum(map(len, parts))


def _header(name: str, size: int) -> bytes:
    """Return the tar header of a file; it depends on nothing else."""
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def _padded(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _files_of(case: ShardCase, jpeg_quality: int | None) -> _Files:
    image, error = read_image_bytes(case.image), (0.0, 0)
    suffix = split_name(case.image.name)[1] or _ENDINGS.get(kind_of(image[:HEAD_BYTES]) or "", "")
    if not suffix:
        raise ValueError(f"{case.image}: this is no image that can be read; leave it out")
    mask = None if case.mask is None else read_image_bytes(case.mask)
    mask_suffix = "" if case.mask is None else split_name(case.mask.name)[1]
    if jpeg_quality is not None:
        image, error = _as_jpeg(case.image, jpeg_quality)
        suffix = ".jpg"
        if case.mask is not None:
            mask, mask_suffix = _smallest_mask(case.mask), ".png"
    return _Files(
        (f"{case.key}.image{suffix}", image),
        None if mask is None else (f"{case.key}.mask{mask_suffix}", mask),
        (f"{case.key}.json", json.dumps(case.about, ensure_ascii=False, allow_nan=False).encode()),
        {**_row(case), "error": list(error)},
    )


def _as_jpeg(path: Path, quality: int) -> tuple[bytes, tuple[float, int]]:
    """Return an image as JPEG, and its mean and maximum error in grey levels of 255."""
    pixels = read_pixels(path)
    if pixels.dtype != np.uint8:
        raise ValueError(f"{path}: JPEG holds 8 bits, the image has more; write the shards without --jpeg-quality")
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1, cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
    data = _encode_image(".jpg", pixels, flags)
    difference = np.abs(_decode_image(data).astype(int) - pixels)
    return data, (float(difference.mean()), int(difference.max()))


def _smallest_mask(path: Path) -> bytes:
    """Return a mask as PNG with the same values, in one bit where they are 0 and 255."""
    pixels = read_pixels(path)
    flags = [cv2.IMWRITE_PNG_COMPRESSION, 9]
    if pixels.dtype == np.uint8 and np.isin(pixels, (0, 255)).all():
        bilevel = _encode_image(".png", pixels, [*flags, cv2.IMWRITE_PNG_BILEVEL, 1])
        if np.array_equal(_decode_image(bilevel), pixels):
            return bilevel
    data = _encode_image(".png", pixels, flags)
    if not np.array_equal(_decode_image(data), pixels):
        raise ValueError(f"{path}: the mask cannot be stored as PNG; save it as 8-bit grey PNG")
    return data


def _encode_image(suffix: str, pixels: np.ndarray, flags: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, pixels[:, :, ::-1] if pixels.ndim == 3 else pixels, flags)
    assert done
    return data.tobytes()


def _decode_image(data: bytes) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return pixels[:, :, ::-1] if pixels.ndim == 3 else pixels
