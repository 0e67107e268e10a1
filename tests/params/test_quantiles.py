"""Quantiles from summaries, by hand and beside numpy's in the same definition."""

import numpy as np
import pytest

from fedsag_cli.params.quantiles import quantile, summary


def test_a_summary_has_the_means_and_counts_of_groups_of_equal_size():
    assert summary([4.0, 1.0, 3.0, 2.0], 2) == [(1.5, 2.0), (3.5, 2.0)]


def test_a_summary_has_as_many_groups_as_the_root_of_the_number_of_values():
    assert [count for _, count in summary(range(9))] == [3.0, 3.0, 3.0]


def test_missing_values_are_not_in_a_summary():
    assert summary([float("nan"), 2.0]) == [(2.0, 1.0)]
    assert summary([float("nan")]) == []


def test_a_quantile_lies_on_the_line_through_the_middles_of_the_groups():
    """The groups' middles are at 1 and 3 of 4 values: half of them are at 2, which is midway."""
    assert quantile([(1.5, 2.0), (3.5, 2.0)], 0.5) == 2.5


def test_beyond_the_middles_a_quantile_is_the_outermost_mean():
    assert [quantile([(1.5, 2.0), (3.5, 2.0)], q) for q in (0.0, 1.0)] == [1.5, 3.5]


@pytest.mark.parametrize("q", [0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
def test_with_a_group_for_each_value_the_quantile_is_hazens(q):
    values = np.random.default_rng(1).normal(size=37)

    assert quantile(summary(values, 37), q) == pytest.approx(np.quantile(values, q, method="hazen"))


def test_summaries_of_several_sites_are_a_summary_of_all_their_values():
    rng = np.random.default_rng(2)
    sites = [rng.normal(mean, size=2000) for mean in (-1.0, 0.0, 3.0)]
    groups = [group for site in sites for group in summary(site)]

    for q in (0.05, 0.25, 0.5, 0.75, 0.95):
        assert quantile(groups, q) == pytest.approx(np.quantile(np.concatenate(sites), q), abs=0.1)
