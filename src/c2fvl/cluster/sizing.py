"""How many actors a cluster has room for. No torch, no Ray."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

BLOCK = 64
"""Cases that an actor gets at once, if there are enough: Ray needs some milliseconds for each call."""
_SHARES = 8
"""Blocks for each actor, so that all of them end at about the same time."""
_MAX_CPUS_OF_GPU = 4


@dataclass(frozen=True)
class Pool:
    """The actors of a run."""

    actors: int
    cpus: int
    """Of each actor; its network computes with as many threads."""
    gpus: int = 0
    """Of each actor."""

    @property
    def words(self) -> str:
        """Return how many actors there are, and with what."""
        what = f"{self.cpus} core{'s' if self.cpus > 1 else ''}{' and a GPU' if self.gpus else ''}"
        return f"{self.actors} actor{'s' if self.actors > 1 else ''} with {what}{' each' if self.actors > 1 else ''}"

    def block(self, cases: int, batch_size: int = 1) -> int:
        """Return how many cases an actor gets at once: a multiple of the batch size."""
        even = -(-cases // (self.actors * _SHARES))
        size = max(1, min(BLOCK, even))
        return -(-size // batch_size) * batch_size


def pool_of(
    nodes: Iterable[Mapping[str, float]], *, cpus: int | None = None, gpu: bool = False, actors: int | None = None
) -> Pool:
    """Return the pool for machines with these resources ("CPU", "GPU").

    An actor takes `cpus` cores of one machine, and a whole GPU of it with `gpu`. None takes one core, with a GPU the
    cores there are for each GPU, up to four. None for `actors` takes as many as there is room for. The actors read the
    images themselves, so they leave no other task without a core. Raises `ValueError` where they have no room.
    """
    machines = [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes]
    if gpu and not any(gpus for _, gpus in machines):
        raise ValueError("no machine of the cluster has a GPU; leave out --device cuda to use the processors")
    if cpus is None:
        shares = [cores // gpus for cores, gpus in machines if gpus]
        cpus = max(1, min(_MAX_CPUS_OF_GPU, *shares)) if gpu else 1
    room = sum(min(cores // cpus, gpus) if gpu else cores // cpus for cores, gpus in machines)
    what = f"{cpus} core{'s' if cpus > 1 else ''}{' and a GPU' if gpu else ''}"
    if not room:
        largest = max((cores for cores, _ in machines), default=0)
        raise ValueError(
            f"no machine of the cluster has room for an actor with {what}; the largest has {largest} cores. Give fewer "
            "cores with --threads"
        )
    if actors is not None and actors > room:
        raise ValueError(
            f"--actors {actors} do not fit: the cluster has room for {room} with {what} each. Give fewer actors, or "
            "fewer cores with --threads"
        )
    return Pool(actors or room, cpus, int(gpu))
