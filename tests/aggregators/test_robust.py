"""Robust aggregation by hand-computed numbers, and what holds for any updates."""

import numpy as np
import pytest
import torch
from fakes import update
from hypothesis import given
from hypothesis import strategies as st

from fedsag_cli.aggregators.coordinate_median import CoordinateMedian
from fedsag_cli.aggregators.krum import Krum
from fedsag_cli.aggregators.trimmed_mean import TrimmedMean
from fedsag_cli.errors import JobError, RunError, TensorError
from fedsag_cli.model import Cohort, FLModel, Reply
from fedsag_cli.params import stacks

MAKERS = {
    "CoordinateMedian": CoordinateMedian,
    "TrimmedMean": lambda: TrimmedMean(0.2),
    "Krum": lambda: Krum(1),
    "Multi-Krum": lambda: Krum(1, num_chosen=3),
}
NUMBERS = st.floats(-1000, 1000, width=32)


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


def merged(aggregator, *updates):
    for number, sent in enumerate(updates, 1):
        aggregator.accept(Reply(site=f"site-{number}", model=sent))
    return aggregator.aggregate()


def of(aggregator, *rows):
    """The aggregate of updates with one param each, as a list."""
    return merged(aggregator, *(update(w=torch.tensor(row)) for row in rows)).params["w"].tolist()


def test_the_median_of_an_odd_number_is_the_value_in_the_middle_for_each_number_of_its_own():
    assert of(CoordinateMedian(), [1.0, 30.0], [2.0, 10.0], [9.0, 20.0]) == [2.0, 20.0]


def test_the_median_of_an_even_number_is_the_mean_of_the_two_in_the_middle():
    assert of(CoordinateMedian(), [1.0], [2.0], [5.0], [1000.0]) == [3.5]


def test_the_median_of_two_great_numbers_does_not_overflow():
    great = float(np.finfo(np.float64).max)

    found = merged(CoordinateMedian(), update(w=np.array([great])), update(w=np.array([great])))

    assert found.params["w"].tolist() == [great]


def test_the_trimmed_mean_is_the_mean_without_as_many_at_each_end():
    """floor(0.2 * 5) = 1: without 1 and 1000, (2 + 3 + 7) / 3."""
    assert of(TrimmedMean(0.2), [1.0], [1000.0], [7.0], [2.0], [3.0]) == [4.0]


def test_the_trimmed_mean_of_few_removes_nobody_and_says_so():
    found = merged(TrimmedMean(0.2), update(w=torch.tensor([1.0])), update(w=torch.tensor([4.0])))

    assert (found.params["w"].tolist(), found.meta) == ([2.5], {"trimmed": 0})


def test_a_share_is_not_one_less_by_its_last_bit():
    """0.29 * 100 is 28.999999999999996."""
    found = merged(TrimmedMean(0.29), *(update(w=np.array([float(number)])) for number in range(100)))

    assert found.meta == {"trimmed": 29}


def test_a_trimmed_mean_of_nothing_is_refused():
    with pytest.raises(JobError, match="must be below"):
        TrimmedMean(0.5)


def test_krum_takes_the_update_with_the_closest_neighbours():
    """n = 5, f = 1: 2 neighbours. Scores: 0 -> 1 + 9 = 10, 1 -> 1 + 4 = 5, 3 -> 4 + 1 = 5, 4 -> 1 + 9 = 10, far."""
    found = merged(Krum(1), *(update(w=torch.tensor([value])) for value in (0.0, 1.0, 3.0, 4.0, 100.0)))

    assert (found.params["w"].tolist(), found.meta) == ([1.0], {"chosen": ["site-2"]})


def test_krum_measures_over_all_params():
    """By v or w alone, site-1 scores 0 + 1 = 1, the least; by both, site-4 scores 2 + 5 = 7 and site-1 2 + 9 = 11."""
    rows = [(0.0, 0.0), (3.0, 0.0), (0.0, 3.0), (1.0, 1.0), (9.0, 9.0)]
    one, both = (
        merged(Krum(1), *(update(**{name: torch.tensor([value]) for name, value in each.items()}) for each in sent))
        for sent in ([{"v": v} for v, _ in rows], [{"v": v, "w": w} for v, w in rows])
    )

    assert (one.meta, both.meta) == ({"chosen": ["site-1"]}, {"chosen": ["site-4"]})


def test_multi_krum_is_the_mean_of_the_best_whatever_steps_they_claim():
    """Scores as above: 1, 3, then 0 before 4 by the order of the sites."""
    values = (0.0, 1.0, 3.0, 4.0, 100.0)
    found = merged(Krum(1, 3), *(update(1000 * value, w=torch.tensor([value])) for value in values))

    assert found.params["w"].tolist() == pytest.approx([4 / 3], rel=1e-6)
    assert found.meta == {"chosen": ["site-2", "site-3", "site-1"]}


def test_an_update_that_is_not_finite_is_never_chosen_and_no_ones_neighbour():
    values = (float("nan"), 1.0, 3.0, 4.0, float("inf"), 5.0, 2.0)
    found = merged(Krum(2, 5), *(update(w=torch.tensor([value])) for value in values))

    assert sorted(found.meta["chosen"]) == ["site-2", "site-3", "site-4", "site-6", "site-7"]


@pytest.mark.parametrize(("aggregator", "needed"), [(Krum(1), 5), (Krum(0), 3), (Krum(2), 7), (Krum(1, 6), 7)])
def test_krum_says_how_many_it_needs_before_anybody_trains_and_where_some_failed(aggregator, needed):
    rng = np.random.default_rng(0)
    sites = [f"site-{number}" for number in range(1, needed + 1)]
    aggregator.begin(FLModel(), Cohort(sites=sites, num_clients=needed, round_num=0, rng=rng))

    with pytest.raises(JobError, match=f"needs {needed} clients in each round, {needed - 1} are asked"):
        aggregator.begin(FLModel(), Cohort(sites=sites[1:], num_clients=needed, round_num=0, rng=rng))
    with pytest.raises(RunError, match=f"needs {needed} updates in each round, this one has {needed - 1}"):
        merged(aggregator, *[update(w=torch.tensor([1.0]))] * (needed - 1))


def test_krum_refuses_an_update_with_other_keys():
    aggregator = Krum(0)
    aggregator.accept(Reply(site="a", model=update(v=torch.tensor([1.0]), w=torch.tensor([1.0]))))

    with pytest.raises(TensorError, match="b sent other keys than earlier sites, such as 'w'"):
        aggregator.accept(Reply(site="b", model=update(v=torch.tensor([1.0]))))


@pytest.mark.parametrize("aggregator", [CoordinateMedian(), TrimmedMean(0.4)])
def test_each_key_is_of_the_sites_that_sent_it(aggregator):
    found = merged(
        aggregator,
        update(w=torch.tensor([1.0]), alone=torch.tensor([5.0])),
        update(w=torch.tensor([3.0])),
        update(w=torch.tensor([100.0])),
    )

    assert {name: value.tolist() for name, value in found.params.items()} == {"w": [3.0], "alone": [5.0]}


@pytest.mark.parametrize("kind", ["FULL", "DIFF"])
def test_the_aggregate_is_what_the_updates_are(make, kind):
    found = merged(make(), *(update(w=torch.tensor([value]), kind=kind) for value in (0.0, 2.5, 3.0, 3.5, 6.0)))

    assert found.params_type.value == kind
    assert found.params["w"].tolist() == [3.0]


@pytest.mark.parametrize("first", ["FULL", "DIFF"])
def test_full_and_diff_cannot_be_mixed(make, first):
    aggregator = make()
    aggregator.accept(Reply(site="a", model=update(w=torch.tensor([1.0]), kind=first)))

    other = "DIFF" if first == "FULL" else "FULL"
    with pytest.raises(TensorError, match="b sent"):
        aggregator.accept(Reply(site="b", model=update(w=torch.tensor([9.0]), kind=other)))


@pytest.mark.parametrize("value", [torch.tensor([1.0, 2.0]), torch.tensor(1.0), torch.tensor([1])])
def test_an_update_of_another_shape_or_kind_of_number_is_refused(make, value):
    aggregator = make()
    aggregator.accept(Reply(site="a", model=update(w=torch.tensor([1.0]))))

    with pytest.raises(TensorError, match="'w'"):
        aggregator.accept(Reply(site="b", model=update(w=value)))


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor([[1.0, 2.0]]), torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor(1.0, dtype=torch.float64),
        torch.tensor([1.0], dtype=torch.float8_e4m3fn), torch.tensor([1 + 2j]), torch.tensor([3]),
        torch.tensor([True, False]), torch.zeros(0), np.float32(1.0), np.array([1.0], np.float16),
        np.array([7], np.uint8), 1.0, 3,
    ],
    ids=lambda value: f"{type(value).__name__}-{getattr(value, 'dtype', '')}",
)  # fmt: skip
def test_equal_updates_of_any_dtype_are_the_aggregate(make, value):
    found = merged(make(), *[update(w=value)] * 5).params["w"]

    assert type(found) is type(value)
    assert getattr(found, "dtype", None) == getattr(value, "dtype", None)
    assert np.shape(found) == np.shape(value)
    assert torch.as_tensor(found).tolist() == torch.as_tensor(value).tolist()


def test_whole_numbers_are_rounded_half_to_even():
    found = merged(CoordinateMedian(), update(n=torch.tensor([1, 3])), update(n=torch.tensor([2, 4])))

    assert found.params["n"].tolist() == [2, 4]


def test_whole_numbers_are_no_distance():
    """By the counts, site-5 would be far from all."""
    values = (0.0, 1.5, 2.5, 4.0, 2.0)
    sent = [update(w=torch.tensor([value]), n=torch.tensor(int(10 * value**9))) for value in values]

    assert merged(Krum(1), *sent).meta == {"chosen": ["site-5"]}


def test_a_round_starts_from_nothing(make):
    aggregator = make()
    merged(aggregator, *[update(w=torch.tensor([100.0]), old=torch.tensor([1.0]))] * 5)

    found = merged(aggregator, *[update(v=np.array([3.0]), kind="DIFF")] * 5)
    assert {name: value.tolist() for name, value in found.params.items()} == {"v": [3.0]}


def test_nothing_accepted_is_an_empty_aggregate(make):
    assert make().aggregate().params == {}


def test_nan_counts_as_greater_than_all_numbers():
    rows = [[float("nan")], [1.0], [2.0]]

    assert of(CoordinateMedian(), *rows) == [2.0]
    assert of(TrimmedMean(0.4), *rows) == [2.0]


@given(st.lists(st.lists(NUMBERS, min_size=2, max_size=2), min_size=5, max_size=9), st.randoms())
def test_the_order_of_the_clients_does_not_matter_to_median_and_trimmed_mean(rows, random):
    shuffled = random.sample(rows, len(rows))

    assert of(CoordinateMedian(), *rows) == of(CoordinateMedian(), *shuffled)
    assert of(TrimmedMean(0.3), *rows) == of(TrimmedMean(0.3), *shuffled)


@given(st.lists(NUMBERS, min_size=3, max_size=8), st.lists(st.floats(width=32), min_size=0, max_size=2))
def test_a_minority_that_sends_anything_cannot_move_the_result_beyond_the_others(honest, attackers):
    """Of n values fewer than a half are attackers', and the trimmed mean removes as many at each end."""
    beta = (len(attackers) + 0.01) / (len(honest) + len(attackers))
    rows = [[value] for value in [*honest, *attackers]]

    for aggregator in (CoordinateMedian(), TrimmedMean(beta)):
        [found] = of(aggregator, *rows)
        assert min(honest) <= np.float32(found) <= max(honest)


@given(st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=5, max_size=5))
def test_median_and_trimmed_mean_are_what_numpy_has(rows):
    expected = np.sort(np.array(rows, np.float32), axis=0)

    assert of(CoordinateMedian(), *rows) == expected[2].tolist()
    assert of(TrimmedMean(0.2), *rows) == pytest.approx(expected[1:4].astype(np.float64).mean(0), rel=1e-6, abs=1e-30)


def test_large_params_are_worked_on_in_pieces_with_the_same_result(make, monkeypatch):
    """7 numbers in pieces of 2: the last piece is shorter."""
    sent = [update(w=torch.randn(7, generator=torch.Generator().manual_seed(seed))) for seed in range(5)]
    whole = merged(make(), *sent).params["w"].tolist()
    monkeypatch.setattr(stacks, "_ROOM", 10)

    assert merged(make(), *sent).params["w"].tolist() == whole


def test_what_is_kept_is_asked_of_the_reply():
    """A reply's own params are valid only until the next one."""
    kept = update(w=torch.tensor([1.0]))
    aggregator = CoordinateMedian()
    passing = update(w=torch.tensor([1.0]))
    aggregator.accept(Reply(site="a", model=passing, keeper=lambda: kept))
    passing.params["w"].fill_(77.0)

    assert aggregator.aggregate().params["w"].tolist() == [1.0]
