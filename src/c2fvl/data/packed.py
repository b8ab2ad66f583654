"""A data set as a few tar files, to be copied, kept or streamed: WebDataset's layout.

A packed folder holds `NAME-000000.tar`, `NAME-000001.tar`, … and `manifest.json` with the size and the SHA-256 of each.
A case is three neighbours in a tar: `KEY.image.png` (or `.jpg`, `.tif`), `KEY.mask.png` and `KEY.json` with its id,
split, group, report and the report's orientation. Images are the files as they are, or JPEG where that is asked for;
masks are always exact.
"""

import gzip
import io
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from c2fvl.data.cases import Case
from c2fvl.data.file_names import SUFFIXES, split_name
from c2fvl.data.prefetch import prefetch
from c2fvl.data.scan import find_splits, scan
from c2fvl.files import storage
from c2fvl.files.images import read_image_bytes, read_pixels
from c2fvl.files.parsing import parse_json
from c2fvl.files.tables import write_cells
from c2fvl.progress import SILENT, Progress
from c2fvl.reports.report import Report, parse_report

MAX_PART = 55 * 2**20
"""Bytes of a part, at most, unless a single case is larger."""
FORMAT = "c2fvl-packed-1"
TABLE = "cases.csv"
"""What `unpack` writes beside the files: a data set's csv."""
_MEMBER = re.compile(r"(?P<key>[a-z]+-\d+)\.(?P<kind>image|mask|json)(?:\.?(?P<suffix>png|jpe?g|tiff?))?")


@dataclass(frozen=True)
class PackedCase:
    """One case as it lies in a part."""

    id: str
    split: str
    image: bytes
    suffix: str
    """Ending of the image's file, such as ".png"."""
    mask: bytes | None
    report: Report | None
    group: str | None
    columns: Mapping[str, str]


@dataclass(frozen=True)
class _CaseFiles:
    """The files of one case in a part, and by how much its image differs from the original, in grey levels of 255."""

    files: dict[str, bytes]
    split: str
    mean_error: float
    max_error: int

    @property
    def size(self) -> int:
        return sum(
            tarfile.BLOCKSIZE + -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE for data in self.files.values()
        )


def pack(
    root: Path | str,
    out: Path | str,
    *,
    name: str = "data",
    splits: Iterable[str] | None = None,
    table: str | None = None,
    jpeg_quality: int | None = None,
    max_bytes: int = MAX_PART,
    compress: bool = False,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Write the data set `root` to the new folder `out` as tar parts of at most `max_bytes`; return the manifest.

    `splits` None takes all there are. `jpeg_quality` (1 to 100) stores the images as JPEG; how far they are then from
    the originals is in the manifest. `compress` writes `.tar.gz`, which WebDataset reads as well.

    Raises `ValueError` for data that cannot be used and for images of more than 8 bits where JPEG is asked for, and
    `FileExistsError` where `out` is there and not empty.
    """
    if jpeg_quality is not None and not 1 <= jpeg_quality <= 100:
        raise ValueError(f"the JPEG quality must be between 1 and 100, got {jpeg_quality}")
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"the name {name!r} must hold letters, digits, '.', '_' and '-' only")
    wanted = tuple(splits) if splits is not None else find_splits(root)
    cases = [(split, number, case) for split in wanted for number, case in enumerate(scan(root, split, table=table))]
    encoded = prefetch(
        lambda item: _encode(item[0], item[1], item[2], jpeg_quality), cases, workers=os.cpu_count() or 1, maximum=64
    )

    def counted() -> Iterator[_CaseFiles]:
        for number, case in enumerate(encoded, start=1):
            progress.advance(number, len(cases))
            yield case

    errors: list[tuple[float, int]] = []
    counts = dict.fromkeys(wanted, 0)
    parts: list[dict[str, Any]] = []
    with storage.new_folder(out) as building:
        for group in _by_size(counted(), max_bytes):
            part = f"{name}-{len(parts):06d}.tar{'.gz' if compress else ''}"
            data = _tar(group, compress=compress)
            storage.write_bytes(building / part, data)
            parts.append({"file": part, "bytes": len(data), "sha256": storage.checksum(data), "num_cases": len(group)})
            for case in group:
                counts[case.split] += 1
                errors.append((case.mean_error, case.max_error))
        mean = float(np.mean([error for error, _ in errors]))
        manifest = {
            "format": FORMAT, "name": name, "num_cases": counts,
            "images": "as they are" if jpeg_quality is None else f"JPEG, quality {jpeg_quality}",
            "mean_error_grey_levels": round(mean, 4), "max_error_grey_levels": max(error for _, error in errors),
            "parts": parts,
        }  # fmt: skip
        storage.write_json(building / storage.MANIFEST, manifest)
    return manifest


def _encode(split: str, number: int, case: Case, jpeg_quality: int | None) -> _CaseFiles:
    key, suffix = f"{split}-{number:06d}", split_name(case.image.name)[1]
    image, mean_error, max_error = read_image_bytes(case.image), 0.0, 0
    if jpeg_quality is not None:
        pixels = read_pixels(case.image)
        if pixels.dtype != np.uint8:
            raise ValueError(f"{case.image}: JPEG holds 8 bits, the image has more; pack the data without a quality")
        flags = [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1, cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
        image, suffix = _encode_image(".jpg", pixels, flags), ".jpg"
        difference = np.abs(_decode_image(image).astype(int) - pixels)
        mean_error, max_error = float(difference.mean()), int(difference.max())
    files = {f"{key}.image{suffix}": image}
    if case.mask is not None:
        files[f"{key}.mask.png"] = _exact_mask(case.mask)
    about = {
        "id": case.id, "split": split, "group": case.group, "report": _sentence(case.report),
        "orientation": "image", "columns": dict(case.columns),
    }  # fmt: skip
    files[f"{key}.json"] = json.dumps(about, ensure_ascii=False).encode()
    return _CaseFiles(files, split, mean_error, max_error)


def _exact_mask(path: Path) -> bytes:
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


def _sentence(report: Report | None) -> str:
    """Return a report in words that are read back as the same report."""
    if report is None:
        return ""
    own = report.in_orientation("image")
    return own.text if own.text and parse_report(own.text) == own else str(own)


def _by_size(cases: Iterable[_CaseFiles], max_bytes: int) -> Iterator[list[_CaseFiles]]:
    group: list[_CaseFiles] = []
    size = 2 * tarfile.RECORDSIZE
    for case in cases:
        if group and size + case.size > max_bytes:
            yield group
            group, size = [], 2 * tarfile.RECORDSIZE
        group.append(case)
        size += case.size
    if group:
        yield group


def _tar(cases: Iterable[_CaseFiles], *, compress: bool) -> bytes:
    """Return a tar whose bytes depend on nothing but the files in it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for case in cases:
            for file, data in case.files.items():
                member = tarfile.TarInfo(file)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return gzip.compress(buffer.getvalue(), compresslevel=6, mtime=0) if compress else buffer.getvalue()


def read_manifest(folder: Path | str) -> dict[str, Any]:
    """Return the manifest of a packed folder; `ValueError` where there is none that can be read."""
    path = Path(folder) / storage.MANIFEST
    try:
        manifest = parse_json(path.read_bytes())
        if manifest["format"] != FORMAT or not all(
            {"file", "bytes", "sha256"} <= set(part) for part in manifest["parts"]
        ):
            raise ValueError(f"its format is {manifest['format']!r}, expected {FORMAT!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no manifest of packed data ({error}); pack the data again, or copy it") from error
    return dict(manifest)


def read_packed(folder: Path | str, split: str | None = None) -> Iterator[PackedCase]:
    """Yield the cases of a packed folder, of one split or of all, part by part in their order.

    Every part is checked against the manifest before a case of it is yielded. Raises `FileNotFoundError` for a part
    that is missing and `ValueError` for one that is damaged; both name the part and its checksum.
    """
    folder = Path(folder)
    for part in read_manifest(folder)["parts"]:
        for case in _cases_of_part(folder, part):
            if split in (None, case.split):
                yield case


def _cases_of_part(folder: Path, part: Mapping[str, Any]) -> list[PackedCase]:
    path, expected = folder / str(part["file"]), str(part["sha256"])
    if path.parent != folder:
        raise ValueError(f"{folder / storage.MANIFEST} names {part['file']!r}, which lies outside its folder")
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing; copy the part with SHA-256 {expected} there") from error
    found = storage.checksum(data)
    if found != expected:
        raise ValueError(
            f"{path} is damaged: {len(data)} bytes with SHA-256 {found}, expected {part['bytes']} bytes with "
            f"{expected}; copy it again"
        )
    files: dict[str, dict[str, tuple[str, bytes]]] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            match = _MEMBER.fullmatch(member.name)
            content = archive.extractfile(member) if member.isfile() else None
            if match is None or content is None:
                raise ValueError(f"{path} holds {member.name!r}; expected KEY.image.png, KEY.mask.png and KEY.json")
            files.setdefault(match["key"], {})[match["kind"]] = (f".{match['suffix']}", content.read())
    return [_case(path, key, of_case) for key, of_case in files.items()]


def _case(path: Path, key: str, files: Mapping[str, tuple[str, bytes]]) -> PackedCase:
    try:
        about = parse_json(files["json"][1])
        suffix, image = files["image"]
        name, sentence = str(about["id"]), str(about["report"])
        report = parse_report(sentence, orientation=about["orientation"]).in_orientation("image") if sentence else None
        found = PackedCase(
            name, str(about["split"]), image, suffix, files["mask"][1] if "mask" in files else None, report,
            about["group"], dict(about.get("columns", {})),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: the case {key} cannot be read ({error!r}); pack the data again") from error
    if not name or Path(name).name != name or name.startswith(".") or suffix not in SUFFIXES:
        raise ValueError(f"{path}: the case {key} is named {name!r}, which is no file name; pack the data again")
    return found


def unpack(folder: Path | str, out: Path | str, *, threads: int | None = None) -> Path:
    """Write a packed folder's cases as files to the new folder `out`; return its csv, which `scan` reads.

    The layout is `out/SPLIT/images`, `out/SPLIT/masks` and `out/cases.csv`. Raises as `read_packed`, and
    `FileExistsError` where `out` is there and not empty.
    """
    folder, out = Path(folder), Path(out)
    columns = ["image", "mask", "text", "group", "split"]
    further: list[str] = []
    rows = []
    with (
        storage.new_folder(out) as building,
        ThreadPoolExecutor(threads or min(32, os.cpu_count() or 1)) as pool,
    ):

        def write(case: PackedCase) -> tuple[PackedCase, str, str]:
            image = f"{case.split}/images/{case.id}{case.suffix}"
            mask = f"{case.split}/masks/{case.id}.png" if case.mask is not None else ""
            storage.write_bytes(building / image, case.image, durable=False)
            if case.mask is not None:
                storage.write_bytes(building / mask, case.mask, durable=False)
            return case, image, mask

        for split in read_manifest(folder)["num_cases"]:
            for kind in ("images", "masks"):
                storage.make_folder(building / split / kind)
        for case, image, mask in pool.map(write, read_packed(folder)):
            further += [name for name in case.columns if name not in further]
            row = [image, mask, _sentence(case.report), case.group or "", case.split]
            rows.append((row, case.columns))
        table = [[*row, *(own.get(name, "") for name in further)] for row, own in rows]
        write_cells(building / TABLE, [[*columns, *further], *table])
    return out / TABLE
