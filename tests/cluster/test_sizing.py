"""How many actors fit, and what is refused because it cannot fit."""

import pytest

from c2fvl.cluster.sizing import BLOCK, Pool, pool_of

NODES = [{"CPU": 8.0, "memory": 1e9}, {"CPU": 3.0, "GPU": 1.0}, {"CPU": 16.0, "GPU": 4.0}, {"memory": 1e9}]


def test_actors_fill_the_machines_but_never_lie_across_two():
    assert pool_of(NODES) == Pool(27, 1)
    assert pool_of(NODES, cpus=4) == Pool(2 + 0 + 4, 4)
    assert pool_of(NODES, cpus=4, actors=2) == Pool(2, 4)


def test_an_actor_with_a_gpu_takes_the_cores_that_there_are_for_it():
    assert pool_of(NODES, gpu=True) == Pool(1 + 4, 3, 1)
    assert pool_of(NODES, gpu=True, cpus=8) == Pool(2, 8, 1)
    assert pool_of([{"CPU": 1.0, "GPU": 2.0}], gpu=True) == Pool(1, 1, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cpus": 17}, r"no machine .* room for an actor with 17 cores; the largest has 16 cores.*--threads"),
        ({"actors": 28}, r"--actors 28 do not fit: the cluster has room for 27 with 1 core each"),
        ({"gpu": True, "cpus": 17}, r"17 cores and a GPU"),
    ],
)
def test_what_cannot_fit_is_refused_with_the_reason(arguments, message):
    with pytest.raises(ValueError, match=message):
        pool_of(NODES, **arguments)


def test_a_cluster_without_gpus_or_without_machines_is_refused():
    with pytest.raises(ValueError, match="no machine of the cluster has a GPU"):
        pool_of([{"CPU": 4.0}], gpu=True)
    with pytest.raises(ValueError, match="the largest has 0 cores"):
        pool_of([])


@pytest.mark.parametrize("cases", [1, 7, 40, 3000, 1_000_000])
@pytest.mark.parametrize("actors", [1, 2, 100])
def test_blocks_keep_all_actors_busy_and_are_whole_batches(cases, actors):
    block = Pool(actors, 1).block(cases)
    assert 1 <= block <= BLOCK
    assert block == BLOCK or -(-cases // block) <= actors * 8
    assert Pool(actors, 1).block(cases, 24) % 24 == 0
