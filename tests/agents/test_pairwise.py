import math

import numpy as np
import pytest
from scipy import stats

from agents.comparison.pairwise import (
    PairTests,
    detectable_probability,
    holm,
    improvement_test,
    rank_intervals,
    shift_of,
)
from agents.comparison.statistics import interquartile_mean
from agents.comparison.strata import (
    curve_of,
    interquartile_mean_of,
    interquartile_means,
    performance_profile,
    resampled_weights,
)


def share_below(alpha, draw, n_trials=300, seed=0):
    rng = np.random.default_rng(seed)
    return np.mean([improvement_test(*draw(rng))[1] <= alpha for _ in range(n_trials)])


# -- tests of pairs ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_one_task_is_the_larger_of_two_published_tests(seed):
    rng = np.random.default_rng(seed)
    one, other = rng.integers(0, 8, 12).astype(float), rng.integers(1, 12, 9).astype(float)
    probability, p_value = improvement_test([one], [other])
    whitney = stats.mannwhitneyu(one, other, method="asymptotic")
    munzel = stats.brunnermunzel(one, other)
    assert p_value == pytest.approx(max(whitney.pvalue, munzel.pvalue))
    assert probability.value == pytest.approx(whitney.statistic / (12 * 9))
    assert probability.low <= probability.value <= probability.high


@pytest.mark.parametrize("spread", [1.0, 0.01, 0.0])
@pytest.mark.parametrize(("n", "m", "n_tasks"), [(10, 10, 1), (20, 5, 4)])
def test_equal_algorithms_are_told_apart_as_seldom_as_promised(spread, n, m, n_tasks):
    def draw(rng):
        ones = [spread * rng.normal(size=n) for _ in range(n_tasks)]
        return ones, [rng.normal(size=m) for _ in range(n_tasks)]

    assert share_below(0.05, draw) <= 0.09  # 0.05, and three standard errors


def test_tests_are_not_needlessly_careful():
    def draw(rng):
        return [rng.normal(size=20) for _ in range(3)], [rng.normal(size=20) for _ in range(3)]

    assert share_below(0.05, draw) >= 0.02


def test_ties_everywhere_are_no_difference():
    probability, p_value = improvement_test([np.ones(20)], [np.ones(20)])
    assert (probability.value, p_value) == (0.5, 1.0)


def test_few_runs_differ_only_as_far_as_their_order_can_say():
    # 3 of 3 above 3 of 3: one of twenty orders, at either end, whatever the distance
    assert improvement_test([np.full(3, 9.0)], [np.zeros(3)])[1] == pytest.approx(0.1)
    assert improvement_test([np.full(4, 9.0)], [np.zeros(4)])[1] == pytest.approx(2 / 70)
    assert improvement_test([np.full(1, 9.0)], [np.zeros(9)])[1] == pytest.approx(0.2)


def test_tasks_are_not_mixed():
    # on each task they are alike; pooled, the easier task would hide that the one is better
    better = [np.array([10.2, 10.3, 10.4, 10.5, 10.6]), np.array([0.2, 0.3, 0.4, 0.5, 0.6])]
    worse = [values - 0.5 for values in better]
    assert improvement_test(better, worse)[1] < 0.01
    pooled = improvement_test([np.concatenate(better)], [np.concatenate(worse)])[1]
    assert pooled > 0.05


@pytest.mark.parametrize(
    ("p_values", "corrected"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.5, 0.9], [1.0, 1.0]),
        ([0.01], [0.01]),
        ([], []),
    ],
)
def test_holm(p_values, corrected):
    assert holm(p_values) == pytest.approx(corrected)


def test_holm_keeps_all_true_hypotheses_together():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(150):
        scores = {name: rng.normal(size=12) for name in "abcd"}
        pairs = PairTests({"task": scores}).compare("abcd", ["task"])
        hits += any(pair.differs for pair in pairs)
    assert hits / 150 <= 0.10


def test_ranks_leave_what_is_not_told_apart():
    rng = np.random.default_rng(0)
    means = {"top": 9.0, "middle": 5.0, "twin": 5.0, "low": 0.0}
    scores = {name: rng.normal(mean, size=20) for name, mean in means.items()}
    pairs = PairTests({"task": scores}).compare(list(means), ["task"])
    assert [pair.better for pair in pairs][:3] == ["top"] * 3
    found = rank_intervals(list(means), pairs)
    assert found == {"top": (1, 1), "middle": (2, 3), "twin": (2, 3), "low": (4, 4)}


def test_what_is_detectable_is_found_that_often():
    probability = detectable_probability([20, 20], 1)
    shift = shift_of(probability)

    def draw(rng):
        ones = [rng.normal(shift, size=20) for _ in range(2)]
        return ones, [rng.normal(size=20) for _ in range(2)]

    assert share_below(0.05, draw) == pytest.approx(0.8, abs=0.07)


def test_more_runs_detect_less_and_more_pairs_more():
    assert detectable_probability([50], 1) < detectable_probability([20], 1)
    assert detectable_probability([20], 231) > detectable_probability([20], 1)
    assert detectable_probability([3], 231) is None
    assert math.isinf(shift_of(1.0))


# -- statistics with unequal seeds -------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 1), (5, 1), (7, 3), (10, 2)])
def test_interquartile_mean_is_that_of_rliable_with_equal_seeds(shape):
    metrics = pytest.importorskip("rliable.metrics")
    scores = np.random.default_rng(0).normal(size=shape)
    weights = resampled_weights([shape[0]] * shape[1], 2000, 0)
    found = interquartile_mean_of(scores.T.ravel(), weights)
    assert found.value == pytest.approx(metrics.aggregate_iqm(scores))
    other = interquartile_mean(scores)
    assert found[1:] == pytest.approx(other[1:], abs=0.1)


def test_tasks_count_alike_whatever_their_seeds():
    values = np.array([0.0] * 4 + [1.0] * 40)
    weights = resampled_weights([4, 40], 100, 0)
    assert weights.sum(axis=1) == pytest.approx(1.0)
    assert interquartile_means(values, weights)[0] == pytest.approx(0.5)


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    weights = resampled_weights([30, 10], 300, 0)
    hits = 0
    for _ in range(200):
        found = interquartile_mean_of(rng.normal(size=40), weights)
        hits += found.low <= 0.0 <= found.high
    assert 0.86 <= hits / 200 <= 0.99


def test_performance_profile_is_the_share_of_runs():
    values = np.array([0.1, 0.5, 0.9, 0.9])
    weights = resampled_weights([4], 200, 0)
    share, low, high = performance_profile(values, weights, np.array([0.0, 0.5, 0.9, 1.0]))
    assert share.tolist() == [1.0, 0.75, 0.5, 0.0]
    assert (low <= share).all()
    assert (share <= high).all()


def test_curve_is_the_mean_point_by_point():
    values = np.array([[0.0, 1.0]] * 8)
    assert curve_of(values, resampled_weights([8], 50, 0)).tolist() == [[0.0, 1.0]] * 3
