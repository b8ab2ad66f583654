"""Every case exactly once: lost workers, retries, cases in trouble, disks that are full, clusters that end."""

import pytest

from c2fvl.cluster.once import LOST, Answer, ClusterFailedError, each_once


class ClusterError(Exception):
    pass


class Fake:
    """Executes by a function of (call number, index, size), which gives an `Answer`, None for a lost one, or raises."""

    def __init__(self, behave):
        self.behave, self.calls = behave, []

    def __call__(self, indices, size):
        self.calls.append((list(indices), size))
        for index in indices:
            answer = self.behave(len(self.calls), index, size)
            if answer is not None:
                yield answer


def run(behave, total=10, block=4):
    fake = Fake(behave)
    return fake, list(each_once(fake, total, block=block, errors=(ClusterError,)))


def test_without_trouble_one_execution_answers_all():
    fake, found = run(lambda call, index, size: Answer(index, value=index * index))
    assert {answer.index: answer.value for answer in found} == {index: index**2 for index in range(10)}
    assert fake.calls == [(list(range(10)), 4)]


def test_an_answer_that_comes_twice_counts_once():
    def twice(indices, size):
        for index in indices:
            yield Answer(index, value="first")
            yield Answer(index, value="second")

    assert [(answer.index, answer.value) for answer in each_once(twice, 3, block=2)] == [
        (index, "first") for index in range(3)
    ]


def test_what_a_worker_took_with_it_is_tried_alone():
    fake, found = run(lambda call, index, size: None if size > 1 and 4 <= index < 8 else Answer(index, value=call))
    assert sorted(answer.index for answer in found) == list(range(10))
    assert fake.calls[1] == ([4, 5, 6, 7], 1)
    assert not any(answer.trouble for answer in found)


def test_a_case_that_ends_its_worker_each_time_is_set_aside_and_no_other():
    _, found = run(lambda call, index, size: None if index == 5 or (size > 1 and 4 <= index < 8) else Answer(index, 1))
    troubles = {answer.index: answer.trouble for answer in found if answer.trouble}
    assert troubles == {5: LOST} and len(found) == 10


def test_a_case_in_trouble_is_tried_once_more_and_keeps_its_reason():
    fake, found = run(lambda call, index, size: Answer(index, trouble="odd") if index == 3 else Answer(index, 1))
    assert [(answer.index, answer.trouble) for answer in found if answer.trouble] == [(3, "odd")]
    assert fake.calls[1] == ([3], 1) and len(fake.calls) == 2


def test_an_execution_that_ends_early_goes_on_where_it_was(caplog):
    def behave(call, index, size):
        if call <= 2 and index == 3 * call:
            raise ClusterError("the node died\nmore")
        return Answer(index, value=1)

    fake, found = run(behave)
    assert sorted(answer.index for answer in found) == list(range(10))
    assert [call for call, _ in fake.calls] == [list(range(10)), list(range(3, 10)), list(range(6, 10))]
    assert "the node died" in caplog.text and "more" not in caplog.text


def test_a_cluster_that_brings_nothing_further_is_an_error_that_says_how_much_is_done():
    def behave(call, index, size):
        if index == 6:
            raise ClusterError("gone")
        return Answer(index, value=1)

    with pytest.raises(ClusterFailedError, match=r"6 of 10 cases are done: gone.*--skip-existing"):
        run(behave)


def test_cases_that_cannot_be_written_end_the_run_after_all_others():
    seen = []

    def behave(call, index, size):
        return Answer(index, trouble="out/a.png: No space left", is_unwritten=True) if index < 2 else Answer(index, 1)

    with pytest.raises(ClusterFailedError, match=r"2 of 10 cases could not be written: out/a.png: No space left"):
        for answer in each_once(Fake(behave), 10, block=4):
            seen.append(answer.index)
    assert seen == list(range(2, 10))


def test_a_disk_that_was_full_on_one_worker_loses_nothing():
    def behave(call, index, size):
        return Answer(index, trouble="full", is_unwritten=True) if call == 1 and index < 4 else Answer(index, 1)

    _, found = run(behave)
    assert sorted(answer.index for answer in found) == list(range(10)) and not any(one.trouble for one in found)


def test_a_disk_that_is_full_for_everybody_stops_the_run_soon():
    fake = Fake(lambda call, index, size: Answer(index, trouble="No space left", is_unwritten=True))
    tried = []

    def counted(indices, size):
        for answer in fake(indices, size):
            tried.append(answer.index)
            yield answer

    with pytest.raises(ClusterFailedError, match="No space left"):
        list(each_once(counted, 100_000, block=64))
    assert len(tried) < 1000


def test_an_error_of_the_program_is_not_hidden():
    def behave(call, index, size):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(behave)


def test_an_execution_ends_with_the_loop_over_its_answers():
    ended = []

    def execute(indices, size):
        try:
            for index in indices:
                yield Answer(index, trouble="full", is_unwritten=True) if index >= 500 else Answer(index, 1)
        finally:
            ended.append(size)

    answers = each_once(execute, 1000, block=4)
    next(answers)
    answers.close()
    assert ended == [4]
    with pytest.raises(ClusterFailedError):
        list(each_once(execute, 1000, block=8))
    assert ended == [4, 8]


def test_no_case_is_no_work():
    assert list(each_once(Fake(lambda *_: None), 0, block=1)) == []
