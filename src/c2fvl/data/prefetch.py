"""Prefetch: apply a function to items in background threads, in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int = 1, maximum: int = 2
) -> Iterator[Result]:
    """Yield function(item) for each item, in order, computed by `workers` threads up to `maximum` items ahead.

    At most `maximum` + 1 results are held, however slow the caller is. An exception of the function is raised where its
    result would have been yielded. When the caller stops, calls that have not begun are cancelled.
    """
    with ThreadPoolExecutor(max(1, workers), thread_name_prefix="prefetch") as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > maximum:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
