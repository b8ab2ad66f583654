"""Which of the files that were asked for are slices of one CT series: these are predicted together. No torch."""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from c2fvl.files import nifti, shards
from c2fvl.files.ct_series import refusal_of, series_of
from c2fvl.files.dicom_headers import parse
from c2fvl.files.images import read_image_bytes
from c2fvl.files.kinds import HEAD_BYTES, is_ct, kind_of

if TYPE_CHECKING:
    from c2fvl.inference.requests import Request

logger = logging.getLogger(__name__)

_TAIL = 12
"""As many characters of a SeriesInstanceUID tell series of one folder apart."""


@dataclass
class _Series:
    """The requests whose files belong to one series."""

    uid: str
    requests: "list[Request]" = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    """Why files are no slices that can be segmented; empty for each that is one."""


def with_series(requests: "Sequence[Request]", *, named: set[Path]) -> "list[Request]":
    """Return the requests, those for CT slices joined to one for each series.

    A series without a slice that can be segmented, such as scouts, is left out with a warning, unless files of it are
    `named` by the user. Raises `ValueError` where nothing is left.
    """
    found: list[Request | _Series] = []
    series: dict[tuple[str, str | None, str | None], _Series] = {}
    for request in requests:
        read = _read(request.image)
        if read is None:
            found.append(request)
            continue
        uid, refusal = read
        key = uid, request.report, request.orientation
        if key not in series:
            series[key] = _Series(uid)
            found.append(series[key])
        series[key].requests.append(request)
        series[key].refusals.append(refusal)
    joined: list[Request] = []
    uids: dict[Request, str] = {}
    for one in found:
        if not isinstance(one, _Series):
            joined.append(one)
        elif all(one.refusals) and named.isdisjoint(request.image for request in one.requests):
            logger.warning("%s: a series is left out: %s", one.requests[0].image.parent, _counted(one.refusals))
        else:
            joined.append(_joined(one))
            uids[joined[-1]] = one.uid
    if requests and not joined:
        every = [refusal for one in series.values() for refusal in one.refusals]
        raise ValueError(f"there is no image and no CT slice to segment: {_counted(every)}")
    return _with_own_names(joined, uids)


def is_volume(request: "Request", *, for_ct: bool = False) -> bool:
    """Tell whether a request is for a volume; `for_ct` counts a single slice as NIfTI too."""
    if request.slices:
        return True
    try:
        kind = kind_of(shards.read_bytes(request.image, count=HEAD_BYTES))
        return kind == "nifti" and (for_ct or nifti.is_volume(shards.in_memory(request.image)))
    except (OSError, ValueError):
        return False


def _read(path: Path) -> tuple[str, str] | None:
    """Return the series of a CT file and why it is no slice, if so; None for other files and damaged ones."""
    try:
        if not is_ct(shards.read_bytes(path, count=HEAD_BYTES)):
            return None
        dataset = parse(read_image_bytes(path))
    except (OSError, ValueError):
        return None
    return series_of(dataset) or str(path), refusal_of(dataset)


def _joined(series: _Series) -> "Request":
    """Return one request for the files of a series."""
    files = tuple(sorted({request.image.resolve(): request.image for request in series.requests}.values()))
    first = series.requests[0]
    if len(files) == 1:
        return replace(first, slices=files)
    parents = {file.parent for file in files}
    image = parents.pop() if len(parents) == 1 else Path(os.path.commonpath([file.absolute() for file in files]))
    folder = Path(os.path.commonpath([str(request.folder.absolute()) for request in series.requests]))
    below = folder.relative_to(Path().absolute())
    return replace(
        first, image=image, slices=files, folder=below.parent, series_name=image.resolve().name or "series"
    )  # fmt: skip


def _with_own_names(requests: "list[Request]", uids: "dict[Request, str]") -> "list[Request]":
    """Return the requests; series that would have one name get the end of their UID added."""
    counts = Counter(request.name for request in requests)
    return [
        replace(request, series_name=f"{request.series_name}_{uids[request][-_TAIL:].strip('.').replace('.', '_')}")
        if request.series_name and counts[request.name] > 1
        else request
        for request in requests
    ]


def _counted(refusals: list[str]) -> str:
    return "; ".join(f"{count} × {reason}" for reason, count in Counter(refusals).items())
