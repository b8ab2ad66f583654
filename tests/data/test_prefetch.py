"""Work done ahead keeps its order, holds little and passes errors on."""

import threading
import time

import pytest

from c2fvl.data.prefetch import prefetch


@pytest.mark.parametrize(("workers", "maximum"), [(1, 1), (1, 3), (4, 8)])
def test_results_come_in_order(workers, maximum):
    def slow_where_even(number):
        time.sleep(0.002 * (number % 2 == 0))
        return number * number

    assert list(prefetch(slow_where_even, range(40), workers=workers, maximum=maximum)) == [
        number**2 for number in range(40)
    ]


def test_no_more_than_a_few_are_held():
    taken = []

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    for result in prefetch(lambda number: number, items(), maximum=3):
        assert len(taken) - result <= 5


def test_it_is_done_by_another_thread_while_the_caller_works():
    began = threading.Event()

    def work(number):
        began.set()
        return threading.current_thread().name

    names = prefetch(work, range(3), maximum=1)
    assert next(names).startswith("prefetch")
    assert began.is_set()


def test_an_error_is_raised_at_its_place_and_what_follows_is_left_undone():
    done = []

    def work(number):
        if number == 2:
            raise ValueError("number two")
        done.append(number)
        return number

    found = []
    with pytest.raises(ValueError, match="number two"):
        for result in prefetch(work, range(100), maximum=2):
            found.append(result)
    assert found == [0, 1]
    assert max(done) < 10


def test_an_error_of_the_items_is_raised():
    def items():
        yield 1
        raise OSError("no more films")

    with pytest.raises(OSError, match="no more films"):
        list(prefetch(str, items(), maximum=4))


def test_a_caller_that_stops_ends_the_threads():
    before = threading.active_count()
    results = prefetch(lambda number: number, range(1000), workers=3, maximum=5)
    assert next(results) == 0
    results.close()
    assert threading.active_count() == before
