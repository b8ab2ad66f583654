"""What `c2fvl shards` writes: the cases of a data set, or images without masks that are to be predicted. No torch."""

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from c2fvl.data.file_names import group_from_name
from c2fvl.data.scan import find_splits
from c2fvl.data.shard_writer import ShardCase, cases_of
from c2fvl.inference.requests import Request, collect
from c2fvl.messages import listed

logger = logging.getLogger(__name__)

UNSPLIT = "all"


def cases_or_images(
    root: Path | str, *, splits: Iterable[str] | None = None, table: str | None = None
) -> list[ShardCase]:
    """Return the cases of a data set, or of a folder without splits its images, as those of the split "all".

    CT series, which are many files, are left out with a warning. Raises as `cases_of` and `collect`.
    """
    if splits is None and table is None and Path(root).is_dir():
        try:
            find_splits(root)
        except FileNotFoundError as error:
            try:
                requests = collect([str(root)], recursive=True)
            except FileNotFoundError:
                raise error from None
            return _images(requests)
    return cases_of(root, splits=splits, table=table)


def _images(requests: list[Request]) -> list[ShardCase]:
    series = [request.shown for request in requests if request.slices]
    if series:
        logger.warning(
            "left out are %d CT series, which are predicted from their folders: %s", len(series), listed(series, 3)
        )
    return [ShardCase(UNSPLIT, request.image, None, _about(request)) for request in requests if not request.slices]


def _about(request: Request) -> dict[str, object]:
    return {
        "id": request.name.replace(os.sep, "__"), "split": UNSPLIT, "group": group_from_name(request.image.name),
        "modality": "film", "columns": {}, "report": None, "orientation": None, "findings": None,
    }  # fmt: skip
