"""Cases through `map_batches` of Ray Data, with actors that are made once. No torch."""

import logging
import pickle
import warnings
from collections.abc import Callable, Generator, Sequence
from typing import Any

from c2fvl.cluster.once import Answer, Execute
from c2fvl.cluster.sizing import Pool

logger = logging.getLogger(__name__)

_RETRIES = 2
"""Of a block whose actor ended; then its cases are tried one by one (`once.py`)."""
_AHEAD = 2
"""Blocks that an actor has at once: the one that it works on, and the next."""
_MAX_SECONDS_WITHOUT_RESULT = 60 * 60
_INDEX, _ITEM, _ANSWER, _NOTES = "index", "item", "answer", "notes"


class Actor:
    """Holds a worker on a machine of the cluster: `make(*arguments)` gives a function of a list of items.

    That function yields for each item, in their order, the keyword arguments of its `Answer` without the index.
    """

    def __init__(self, make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.notes = _Notes()
        logging.getLogger("c2fvl").addHandler(self.notes)
        self.work = make(*arguments)

    def __call__(self, block: Any) -> Any:
        """Return a table of the answers for a table of items."""
        import pyarrow

        items = [pickle.loads(item) for item in block[_ITEM].to_pylist()]
        answers: list[dict[str, Any]] = []
        try:
            answers.extend(self.work(items))
        except Exception as error:  # whatever it is, it must not end the others
            logger.info("a block ended early", exc_info=True)
            trouble = f"{type(error).__name__}: {error}"
            answers += [{"trouble": trouble}] * (len(items) - len(answers))
        notes = [b""] * len(items)
        notes[0] = pickle.dumps(self.notes.taken())
        dumped = [pickle.dumps(answer) for answer in answers]
        return pyarrow.table({_INDEX: block[_INDEX], _ANSWER: dumped, _NOTES: notes})


class _Notes(logging.Handler):
    """Keeps the warnings of an actor until they are taken."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._kept: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._kept.append(record.getMessage())

    def taken(self) -> list[str]:
        kept, self._kept = self._kept, []
        return kept


def execution(
    ray: Any, items: Sequence[Any], make: Callable[..., Any], arguments: tuple[Any, ...], pool: Pool
) -> Execute:
    """Return the function that executes items on a pool of actors; `Actor` says what `make` is.

    At most `_AHEAD` blocks for each actor are under way, so neither the driver nor the cluster holds more.
    """
    said: set[str] = set()

    def execute(indices: list[int], size: int) -> Generator[Answer]:
        import pyarrow

        blocks = [indices[first : first + size] for first in range(0, len(indices), size)]
        dataset = ray.data.from_arrow(
            [pyarrow.table({_INDEX: block, _ITEM: [pickle.dumps(items[index]) for index in block]}) for block in blocks]
        )
        _settle(dataset.context)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*ray_remote_args")  # `max_task_retries` has no other place
            answered = dataset.map_batches(
                Actor,
                fn_constructor_args=(make, arguments),
                batch_size=None,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(
                    size=min(pool.actors, len(blocks)), max_tasks_in_flight_per_actor=_AHEAD
                ),
                num_cpus=pool.cpus,
                num_gpus=pool.gpus or None,
                max_restarts=-1,
                max_task_retries=_RETRIES,
            )
        for table in answered.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for row in table.to_pylist():
                for note in pickle.loads(row[_NOTES]) if row[_NOTES] else ():
                    if note not in said:
                        said.add(note)
                        logger.warning("%s", note)
                yield Answer(row[_INDEX], **pickle.loads(row[_ANSWER]))

    return execute


def _settle(context: Any) -> None:
    """Set what Ray Data reads when an execution begins."""
    context.enable_progress_bars = context.print_on_execution_start = context.enable_auto_log_stats = False
    context.max_errored_blocks = -1  # `once.py` sees what is missing
    context.execution_no_progress_timeout_s = _MAX_SECONDS_WITHOUT_RESULT
