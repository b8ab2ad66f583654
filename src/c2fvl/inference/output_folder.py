"""One run at a time writes predictions to a folder. No torch."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from c2fvl.files import storage
from c2fvl.files.partial import sole_user

logger = logging.getLogger(__name__)

SECONDS_TO_END = 20.0
"""Workers of a run that was killed may live some seconds longer than their run."""


@contextmanager
def written_by_this_run(out: Path | str, *, with_workers: bool = False, seconds: float | None = None) -> Iterator[Path]:
    """Make the folder and keep other runs out of it within this context; workers of this run may `share` it.

    Waits `seconds`, by default `SECONDS_TO_END`, for a run that ends. Raises `ValueError` where another run goes on,
    and as `storage.check_folder`.
    """
    out = storage.check_folder(out, what="masks")
    storage.make_folder(out)
    began, seconds = time.monotonic(), SECONDS_TO_END if seconds is None else seconds
    is_said = False
    while True:
        with sole_user(out, admits=with_workers) as is_sole:
            if is_sole:
                yield out
                return
        if time.monotonic() - began >= seconds:
            raise ValueError(
                f"{out}: another `c2fvl predict` writes into this folder; wait until it has ended, or name another "
                "folder with --out"
            )
        if not is_said:
            logger.warning("%s is in use; waiting up to %.0f s for the run that writes into it to end", out, seconds)
        is_said = True
        time.sleep(0.2)
