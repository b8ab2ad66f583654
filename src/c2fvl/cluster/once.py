"""Every case exactly once, whatever happens to the workers. No torch, no Ray."""

import logging
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from c2fvl.messages import first_line

logger = logging.getLogger(__name__)

LOST = (
    "the process that worked on it ended each time; it may need more memory than there is, or its file may crash a "
    "decoder. Run it alone, without --engine ray, to see why"
)
_MAX_UNWRITTEN = 256


@dataclass(frozen=True)
class Answer:
    """What a worker says of one case."""

    index: int
    value: Any = None
    trouble: str = ""
    """Why there is no value."""
    is_unwritten: bool = False
    """Whether the trouble is a disk that cannot be written."""


Execute = Callable[[list[int], int], Generator[Answer]]
"""Takes the indices of cases and the size of a block, and gives the answers in any order; some may be missing."""


class ClusterFailedError(OSError):
    """The cluster answers no more, or its disk cannot be written."""


def each_once(
    execute: Execute, total: int, *, block: int, errors: tuple[type[Exception], ...] = ()
) -> Generator[Answer]:
    """Yield one answer for each of `total` cases, in the order in which they are ready.

    A case in trouble, or lost with its worker, is tried once more alone, so that it takes no other with it; then its
    answer has the trouble. An execution is closed when the caller closes or ends this one. `errors` are those that end
    an execution early: what is missing is executed again.
    Raises `ClusterFailedError` where that brings nothing further, and for cases that could not be written.
    """
    done, troubles = bytearray(total), dict[int, Answer]()
    waiting, size = list(range(total)), block
    while waiting:
        failure: Exception | None = None
        try:
            with closing(execute(waiting, size)) as answers:
                for answer in _unless_disk_is_full(answers):
                    if done[answer.index]:
                        continue
                    if answer.trouble:
                        troubles[answer.index] = answer
                        continue
                    done[answer.index] = True
                    yield answer
        except errors as error:
            failure = error
        left = [index for index in waiting if not done[index]]
        if failure is None and size == 1:
            break
        if failure is not None and len(left) == len(waiting):
            raise ClusterFailedError(
                f"the cluster failed, {total - len(left)} of {total} cases are done: {first_line(failure)}; start the "
                "command again, predict with --skip-existing"
            ) from failure
        if failure is not None:
            logger.warning("work was lost (%s); %d cases are left to do", first_line(failure), len(left))
        else:
            size = 1
        waiting = left
    yield from _set_aside([index for index in waiting if not done[index]], troubles, total)


def _unless_disk_is_full(answers: Iterable[Answer]) -> Iterator[Answer]:
    """Yield answers; `ClusterFailedError` as soon as very many of them in a row could not be written."""
    unwritten = 0
    for answer in answers:
        unwritten = unwritten + 1 if answer.is_unwritten else 0
        if unwritten >= _MAX_UNWRITTEN:
            raise ClusterFailedError(answer.trouble)
        yield answer


def _set_aside(left: Collection[int], troubles: dict[int, Answer], total: int) -> Iterator[Answer]:
    unwritten = [troubles[index] for index in left if index in troubles and troubles[index].is_unwritten]
    for index in left:
        answer = troubles.get(index, Answer(index, trouble=LOST))
        if not answer.is_unwritten:
            yield answer
    if unwritten:
        raise ClusterFailedError(
            f"{len(unwritten)} of {total} cases could not be written: {unwritten[0].trouble}. The others are whole; "
            "start the command again, predict with --skip-existing"
        )
