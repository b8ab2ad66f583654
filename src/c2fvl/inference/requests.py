"""Which images `c2fvl predict` predicts, under which names, and with which reports. No torch."""

import glob
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from c2fvl.data.file_names import SUFFIXES
from c2fvl.data.shard_layout import Shard, case_of, find_shards
from c2fvl.files import shards
from c2fvl.files.kinds import is_readable_kind
from c2fvl.files.tables import read_csv
from c2fvl.inference.save import file_names
from c2fvl.inference.series_requests import with_series
from c2fvl.messages import listed
from c2fvl.reports.zones import read_orientation

logger = logging.getLogger(__name__)

_MAX_NAMES = 10
_DOUBLE_ENDINGS = (".nii.gz",)


@dataclass(frozen=True)
class Request:
    """One image to predict."""

    image: Path
    report: str | None = None
    orientation: str | None = None
    """Whose left the report means, where a table says it."""
    folder: Path = Path()
    """Where in the output folder the results go: the image's own place below the folder that was searched."""
    slices: tuple[Path, ...] = ()
    """The files of a CT series; `image` is then the folder that holds them, or the only one."""
    series_name: str = ""
    """The name of the results of a series, and of a case in a shard."""
    label: str = ""
    """How records name the image; empty for its path."""

    @property
    def name(self) -> str:
        """Return the name of the results, below the output folder and without an ending."""
        return str(self.folder / (self.series_name or name_of(self.image)))

    @property
    def shown(self) -> str:
        """Return how records name the image."""
        return self.label or str(self.image)

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the files that are read."""
        return self.slices or (self.image,)


def name_of(image: Path) -> str:
    """Return the name of an image file without its ending."""
    for ending in _DOUBLE_ENDINGS:
        if image.name.lower().endswith(ending):
            return image.name[: -len(ending)]
    return image.stem


def collect(
    inputs: Sequence[str],
    *,
    table: Path | str | None = None,
    report: str | None = None,
    recursive: bool = False,
    results: Path | str | None = None,
) -> list[Request]:
    """Return the images of files, folders, globs, shards and a csv (columns image, report, orientation), each once.

    Images in shards come with their own reports, and their results are named by the ids of the cases.
    Of a folder the images are taken, known by their content, with `recursive` also those of the folders in it; what
    else lies there is named in a warning, hidden files apart. What lies in `results`, the folder of earlier results
    below it, is no image to predict. The CT slices of a series are one request.

    Raises `FileNotFoundError` for what is not there, and `ValueError` for two images whose results would have one name,
    and for one image with two reports.
    """
    requests: list[Request] = []
    for item in inputs:
        found = find_shards(item)
        if found is not None:
            requests += _from_shards(found, report)
            continue
        expanded = _expand(item, recursive=recursive, results=results)
        requests += [Request(path, report, folder=folder) for path, folder in expanded]
    if table is not None:
        requests += list(_from_table(Path(table), report))
    if not requests:
        raise ValueError("there is no image to predict; name files, folders, globs, or a table with --csv")
    requests = with_series(requests, named={Path(item) for item in inputs})
    images: dict[tuple[Path, ...], Request] = {}
    for request in requests:
        other = images.setdefault(tuple(file.resolve() for file in request.files), request)
        if (other.report, other.orientation) != (request.report, request.orientation):
            raise ValueError(f"{request.image} is given with two reports; predict it into two folders")
    check_names(list(images.values()))
    return list(images.values())


def check_names(requests: Sequence[Request], classes: Sequence[str] = ("lesion",)) -> None:
    """Raise `ValueError` for two images of which files would have the same name."""
    seen: dict[str, Path] = {}
    for request in requests:
        for name in file_names(request.name, classes):
            other = seen.setdefault(name, request.image)
            if other is not request.image:
                raise ValueError(
                    f"{other} and {request.image} would both be written as {name}; rename one, or predict them into "
                    "two folders"
                )


def _expand(item: str, *, recursive: bool, results: Path | str | None) -> list[tuple[Path, Path]]:
    """Return the images that an argument names, each with its place below the folder that it names."""
    path = Path(item)
    if path.is_dir():
        return _images_below(path, recursive=recursive, results=results)
    if path.exists() or path.is_symlink():  # a link to nothing fails as an image does, and is not passed over
        return [(path, Path())]
    found = sorted(Path(name) for name in glob.glob(item, recursive=True))  # noqa: PTH207 - patterns may be absolute
    if not found:
        raise FileNotFoundError(f"{item!r} matches no file or folder; check the name")
    return [(entry, Path()) for entry in found if not entry.is_dir()]


def _images_below(root: Path, *, recursive: bool, results: Path | str | None) -> list[tuple[Path, Path]]:
    entries = sorted(root.rglob("*") if recursive else root.iterdir())
    if results is not None and Path(results).resolve() != root.resolve():
        entries = [entry for entry in entries if not entry.resolve().is_relative_to(Path(results).resolve())]
    files = [entry for entry in entries if not entry.is_dir() and not _is_hidden(entry.relative_to(root))]
    # What is an image by name alone is damaged: it must fail, and not be passed over as other files are.
    images = [entry for entry in files if is_readable_kind(entry) or entry.suffix.lower() in SUFFIXES]
    others = [str(entry.relative_to(root)) for entry in files if entry not in set(images)]
    what = f"{len(others)} file(s) that are no image that can be read: {listed(others, _MAX_NAMES)}"
    if not images:
        holds = f"; it holds {what}" if others else ""
        below = "" if recursive else ". Images in the folders below it are found with --recursive"
        raise FileNotFoundError(f"the folder {root} holds no image (PNG, JPEG, TIFF, DICOM, NIfTI){holds}{below}")
    if others:
        logger.warning("%s: left out are %s", root, what)
    return [(entry, entry.parent.relative_to(root)) for entry in images]


def _from_shards(found: Sequence[Shard], report: str | None) -> Iterator[Request]:
    for shard in found:
        for row in shards.read_index(shard.path, sha256=shard.index_sha256)["cases"]:
            try:
                case = case_of(row, shard.path)
                given = str(row.get("report") or "").strip()
                orientation = read_orientation(str(row["orientation"])) if given and row.get("orientation") else None
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{shard.path}: a case cannot be read from its JSON ({error!r}); write the shard again"
                ) from error
            yield Request(case.image, given or report, orientation, series_name=case.id)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _from_table(path: Path, report: str | None) -> Iterator[Request]:
    columns, rows = read_csv(path)
    named = [column for column in ("report", "text") if column in columns]
    if "image" not in columns or len(named) > 1:
        raise ValueError(
            f"{path}: the columns are {', '.join(columns)}; expected image and, optionally, report (or text) and "
            "orientation"
        )
    whose = next((column for column in ("orientation", "frame") if column in columns), None)
    unused = sorted(set(columns) - {"image", *named, whose})
    if unused:
        names = ", ".join(map(str, unused))
        logger.warning("%s: the columns %s are not used, only image, report and orientation are", path, names)
    for number, row in rows:
        image = path.parent / row["image"].strip()  # an absolute path stays as it is
        if not image.is_file():
            raise FileNotFoundError(f"{path}, row {number}, column image: there is no file {image}")
        orientation = None
        if whose is not None and row[whose].strip():
            try:
                orientation = read_orientation(row[whose])
            except ValueError as error:
                raise ValueError(f"{path}, row {number}, column {whose}: {error}") from error
        yield Request(image, next((row[column] for column in named if row[column]), report), orientation)
