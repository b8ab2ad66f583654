from itertools import product

import numpy as np
import pytest
import scipy.stats

from c2fvl.metrics.intervals import Bootstrap, difference, holm
from c2fvl.metrics.published import read_published


def every_draw(values, groups):
    """Return the mean of every possible draw of groups."""
    names = sorted(set(groups))
    members = [[value for value, group in zip(values, groups, strict=True) if group == name] for name in names]
    return np.array([
        np.mean([value for place in draw for value in members[place]])
        for draw in product(range(len(names)), repeat=len(names))
    ])  # fmt: skip


def test_the_interval_of_a_mean_is_that_of_all_possible_draws_of_groups():
    values = np.array([0.1, 0.9, 0.4, 0.8, 0.35, 0.6, 0.2])
    groups = ["a", "a", "b", "c", "c", "c", "d"]
    (found,) = Bootstrap(groups, draws=200_000).means(values)
    low, high = np.quantile(every_draw(values, groups), [0.025, 0.975])
    assert found.value == pytest.approx(values.mean(), abs=1e-15)
    assert (found.low, found.high) == (pytest.approx(low, abs=0.01), pytest.approx(high, abs=0.01))


def test_the_interval_without_groups_is_that_of_scipy():
    values = np.random.default_rng(1).beta(4, 2, 300)
    (found,) = Bootstrap([None] * 300).means(values)
    other = scipy.stats.bootstrap((values,), np.mean, method="percentile", n_resamples=10_000, random_state=0)
    assert found.low == pytest.approx(other.confidence_interval.low, abs=0.002)
    assert found.high == pytest.approx(other.confidence_interval.high, abs=0.002)


def test_images_of_one_patient_count_as_one():
    """Every image five times over: by cases the interval shrinks to what is not true, by groups it does not."""
    values = np.random.default_rng(2).random(60)
    (true,) = Bootstrap([None] * 60).means(values)
    (by_group,) = Bootstrap([str(place // 5) for place in range(300)]).means(np.repeat(values, 5))
    (by_case,) = Bootstrap([None] * 300).means(np.repeat(values, 5))
    assert by_group.high - by_group.low == pytest.approx(true.high - true.low, rel=0.05)
    assert by_case.high - by_case.low < 0.6 * (true.high - true.low)


def test_pooled_numbers_are_ratios_of_sums():
    inside, sizes = np.array([5.0, 0.0, 90.0]), np.array([20.0, 30.0, 100.0])
    (found,) = Bootstrap(["a", "b", "c"], draws=100_000).ratios(2 * inside, sizes)
    draws = [2 * inside[list(draw)].sum() / sizes[list(draw)].sum() for draw in product(range(3), repeat=3)]
    assert found.value == pytest.approx(190 / 150)
    assert (found.low, found.high) == pytest.approx(
        tuple(np.quantile(draws, [0.025, 0.975], method="inverted_cdf")), abs=0.02
    )
    (empty,) = Bootstrap(["a", "b"]).ratios(np.zeros(2), np.zeros(2))
    assert (empty.value, empty.low, empty.high) == (1, 1, 1)


@pytest.mark.parametrize("number", [1, 2, 3, 10, 11, 101])
def test_quantiles_are_those_of_numpy(number):
    values = np.random.default_rng(number).random(number).round(1)
    fractions = (0.25, 0.5, 0.75)
    found = Bootstrap([None] * number).quantiles(values, fractions)
    assert [estimate.value for estimate in found] == np.quantile(values, fractions, method="inverted_cdf").tolist()


def test_the_interval_of_a_median_is_that_of_all_possible_draws():
    values = np.array([0.1, 0.5, 0.55, 0.7, 0.9])
    (found,) = Bootstrap([None] * 5, draws=100_000).quantiles(values, (0.5,))
    medians = [np.median(values[list(draw)]) for draw in product(range(5), repeat=5)]
    assert (found.low, found.high) == tuple(np.quantile(medians, [0.025, 0.975], method="inverted_cdf"))


@pytest.mark.parametrize("seed", range(4))
def test_the_permutation_test_is_that_of_scipy(seed):
    first, second = np.random.default_rng(seed).random((2, 9))
    other = scipy.stats.permutation_test(
        (first, second), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf
    )
    assert difference(first, second, Bootstrap([None] * 9)).permutation == pytest.approx(other.pvalue, abs=1e-12)
    more_first, more_second = np.random.default_rng(seed).normal([[0.6], [0.5]], 0.3, (2, 40))
    other = scipy.stats.permutation_test(
        (more_first, more_second), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=20_000, rng=0
    )
    found = difference(more_first, more_second, Bootstrap([None] * 40))
    assert found.permutation == pytest.approx(other.pvalue, abs=0.02)
    assert found.wilcoxon == scipy.stats.wilcoxon(more_first, more_second).pvalue


def test_tests_go_by_groups():
    """Five groups, all in favour of the first: of 2⁵ choices of signs two are as extreme, for both tests."""
    apart = np.array([0.1, 0.2, 0.3, 0.1, 0.4, 0.2, 0.05, 0.15, 0.25, 0.5])
    groups = ["a", "a", "b", "b", "c", "c", "d", "d", "e", "e"]
    found = difference(apart, np.zeros(10), Bootstrap(groups))
    assert found.permutation == 2 / 32
    assert found.wilcoxon == pytest.approx(2 / 32)
    by_case = difference(apart, np.zeros(10), Bootstrap([None] * 10))
    assert by_case.permutation == 2 / 2**10


def test_equal_systems_differ_by_nothing():
    values = np.random.default_rng(0).random(30)
    found = difference(values, values, Bootstrap([None] * 30))
    assert (found.mean.value, found.mean.low, found.mean.high) == (0, 0, 0)
    assert (found.permutation, found.wilcoxon) == (1, 1)


def test_the_tests_reject_as_often_as_they_say_where_nothing_differs():
    generator = np.random.default_rng(0)
    groups = [str(place // 3) for place in range(60)]
    bootstrap = Bootstrap(groups, draws=400)
    rejected = 0
    for _ in range(200):
        shared = np.repeat(generator.normal(0, 1, 20), 3)
        found = difference(shared + generator.normal(0, 0.3, 60), np.zeros(60), bootstrap)
        rejected += found.permutation <= 0.05
    assert 2 <= rejected <= 20  # 10 expected; by cases it would be about 60


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]


def test_one_case_or_one_group_has_no_interval_and_says_so():
    for groups in (["a"], [None], ["a", "a", "a"]):
        bootstrap = Bootstrap(groups)
        (mean,) = bootstrap.means(np.full(len(groups), 0.5))
        (median,) = bootstrap.quantiles(np.full(len(groups), 0.5), (0.5,))
        assert (mean.low, mean.high, median.low) == (None, None, None)
        assert mean.value == median.value == 0.5
        assert bootstrap.unit.startswith("no interval")
        assert difference(np.ones(len(groups)), np.zeros(len(groups)), bootstrap).permutation == 1
    with pytest.raises(ValueError, match="no cases"):
        Bootstrap([])


def test_what_was_drawn_is_said():
    assert "each case as independent" in Bootstrap([None, None]).unit
    assert Bootstrap(["a", "a", "b", None]).unit.startswith("4 cases in 3 groups, 1 of them single cases")
    assert Bootstrap(["a", "b", "b"]).unit == "3 cases in 2 groups; the bootstrap draws groups"


def test_what_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="1 of 2 are not finite"):
        Bootstrap(["a", "b"]).means(np.array([0.5, np.nan]))
    with pytest.raises(ValueError, match="not finite"):
        difference(np.array([1.0, np.inf]), np.zeros(2), Bootstrap(["a", "b"]))


def test_means_and_quartiles_by_hand():
    bootstrap = Bootstrap([None] * 3)
    (mean,) = bootstrap.means(np.array([0.2, 0.4, 0.9]))
    assert mean.value == pytest.approx(0.5)
    quartiles = bootstrap.quantiles(np.array([1.0, 2.0, 30.0]), (0.25, 0.5, 0.75))
    assert [quartile.value for quartile in quartiles] == [1, 2, 30]


@pytest.mark.parametrize(
    ("dice", "iou", "kind"),
    [
        ("90.6", "82.8", "pooled"),
        ("89.78", "81.45", "pooled"),
        ("91.22", "83.84", "pooled"),
        ("0.9059", "0.8281", "pooled"),
        ("83.40", "74.62", "per image"),
        ("85.22", "77.00", "per image"),
        ("64.60", "50.73", "per image"),
        ("74.62", "83.40", "impossible"),
        ("95", "82.8", "impossible"),
        ("1", "0.5", "unknown"),
        ("83", "71", "unknown"),
    ],
)
def test_published_pairs_of_the_field(dice, iou, kind):
    assert read_published(dice, iou).kind == kind


def test_the_kinds_are_those_of_real_numbers():
    generator = np.random.default_rng(0)
    sizes, missed = generator.integers(10, 1000, 50), generator.random(50)
    inside = (sizes * missed).astype(int)
    dice, iou = 2 * inside / (sizes + inside), inside / sizes
    assert read_published(f"{100 * dice.mean():.2f}", f"{100 * iou.mean():.2f}").kind == "per image"
    pooled = (2 * inside.sum() / (sizes + inside).sum(), inside.sum() / sizes.sum())
    assert read_published(f"{100 * pooled[0]:.2f}", f"{100 * pooled[1]:.2f}").kind == "pooled"


@pytest.mark.parametrize(("dice", "iou"), [("a", "50"), ("120", "90"), ("-1", "0.5"), ("nan", "0.5"), ("85.0", "0.75")])
def test_what_is_no_pair_of_scores_is_refused(dice, iou):
    with pytest.raises(ValueError, match="expected"):
        read_published(dice, iou)
