"""Statistics against closed forms and simulation."""

import numpy as np
import pytest

from otprune_bench.figures.statistics import (
    average_rank,
    clustered_mean,
    clustered_ratio,
    grouped_spearman,
    interval,
    ranks,
    resampled_means,
    spearman,
)

rng = np.random.default_rng(0)


def test_one_value_a_cluster_is_the_textbook_error():
    x = rng.normal(size=50)
    found = clustered_mean(x, np.arange(50))
    assert found.value == pytest.approx(x.mean())
    assert found.error == pytest.approx(x.std(ddof=1) / np.sqrt(50))


def test_copies_in_a_cluster_add_nothing():
    x, one = rng.normal(size=40), np.arange(40)
    few = clustered_mean(x, one)
    many = clustered_mean(np.repeat(x, 7), np.repeat(one, 7))
    assert many == pytest.approx(few)


def test_missing_values_are_left_out():
    x = np.array([1.0, np.nan, 0.0, 1.0])
    assert clustered_mean(x, [0, 0, 1, 2]) == pytest.approx(
        clustered_mean([1.0, 0.0, 1.0], [0, 1, 2])
    )


def test_error_is_the_spread_of_repeated_experiments():
    def experiment(seed):
        draw = np.random.default_rng(seed)
        sizes = draw.integers(3, 9, 80)
        level = np.repeat(draw.normal(0.7, 0.1, 80), sizes)
        images = np.repeat(np.arange(80), sizes)
        return clustered_mean(draw.random(sizes.sum()) < level, images)

    found = [experiment(seed) for seed in range(300)]
    spread = np.std([estimate.value for estimate in found])
    assert np.mean([estimate.error for estimate in found]) == pytest.approx(spread, rel=0.15)


def test_a_ratio_of_one_is_certain():
    x = rng.random(30)
    assert clustered_ratio(x, x, np.arange(30) // 3) == pytest.approx((1.0, 0.0))
    assert clustered_ratio(2 * x, x, np.arange(30) // 3).value == pytest.approx(2.0)


def test_ranks_share_ties():
    assert ranks([10, 30, 20, 20]).tolist() == [1, 4, 2.5, 2.5]


def test_average_rank_is_one_for_who_wins_everywhere():
    scores = {
        "a": {"x": 0.9, "y": 0.8, "z": 0.7},
        "b": {"x": 0.5, "y": 0.6, "z": 0.1},
        "c": {"x": 0.4, "y": 0.6, "z": 0.3},
    }
    assert average_rank(scores) == pytest.approx({"a": 1.0, "b": 7.5 / 3, "c": 7.5 / 3})


def test_spearman_sees_order_alone():
    x = rng.normal(size=(3, 20))
    assert spearman(x, np.exp(x)) == pytest.approx(np.ones(3))
    assert spearman(x, -(x**3)) == pytest.approx(-np.ones(3))
    assert np.isnan(spearman(x[0], np.ones(20)))
    y = rng.normal(size=20)
    assert spearman(x[0], y) == pytest.approx(np.corrcoef(ranks(x[0]), ranks(y))[0, 1])


def test_within_groups_the_difference_between_them_is_gone():
    groups = np.repeat([0, 1], 10)
    x = np.tile(np.arange(10.0), 2) + 100 * groups
    y = -np.tile(np.arange(10.0), 2) + 100 * groups
    assert spearman(x, y) > 0
    assert grouped_spearman(x, y, groups) == pytest.approx(-1)


def test_bootstrap_spreads_as_the_clustered_error_says():
    counts = rng.integers(5, 12, 100)
    sums = rng.binomial(counts, 0.8)
    drawn = resampled_means(sums[:, None], counts, 4000, rng)[:, 0]
    values = np.concatenate(
        [[1.0] * s + [0.0] * (n - s) for s, n in zip(sums, counts, strict=True)]
    )
    estimate = clustered_mean(values, np.repeat(np.arange(100), counts))
    assert drawn.mean() == pytest.approx(estimate.value, abs=3e-3)
    assert drawn.std() == pytest.approx(estimate.error, rel=0.1)
    found = interval(estimate.value, drawn)
    assert found.low < estimate.value < found.high
