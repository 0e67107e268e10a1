"""Which samples of a data set are whose."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fedsag_cli.client as flare
from fedsag_cli.client.partitioning import WAYS, part_of
from fedsag_cli.client.place import Site
from fedsag_cli.errors import ClientError
from fedsag_cli.wire.messages import COUNT, INDEX, SEED, SITE

DIGITS = np.repeat(np.arange(10), 100)


def parts(labels, how="iid", *, sites=4, seed=1, **settings):
    """The parts of all sites."""
    at = [Site(index=index, count=sites, name=f"site-{index + 1}") for index in range(sites)]
    return [part_of(site, labels, how, seed=seed, **settings) for site in at]


def all_of(divided):
    return sorted(index for part in divided for index in part.tolist())


def distinct(labels, part):
    return len(set(np.asarray(labels)[part].tolist()))


@st.composite
def divisions(draw):
    """Labels, the number of sites, and how to divide, such that every site can have a sample."""
    how = draw(st.sampled_from(WAYS))
    kinds = [st.integers(-3, 3), st.sampled_from("abcde"), st.sampled_from([0.5, -0.25, 1e9])]
    labels = draw(st.lists(draw(st.sampled_from(kinds)), min_size=1, max_size=60))
    most = {"column": len(set(labels)), "shards": len(labels) // 2}.get(how, len(labels))
    if most < 1:
        how, most = "iid", len(labels)
    return labels, draw(st.integers(1, most)), how, draw(st.floats(1e-3, 1e3))


@given(divisions(), st.integers(0, 2**63 - 1))
def test_every_sample_is_at_one_site_and_no_site_is_without(division, seed):
    labels, sites, how, alpha = division
    divided = parts(labels, how, sites=sites, seed=seed, alpha=alpha)

    assert all_of(divided) == list(range(len(labels)))
    assert all(len(part) for part in divided)
    assert all(part.dtype == np.int64 and (np.diff(part) > 0).all() for part in divided)


@given(divisions())
def test_labels_as_list_array_and_tensor_are_divided_the_same_way(division):
    labels, sites, how, alpha = division
    forms = [labels, tuple(labels), np.array(labels), np.array(labels, dtype=object)]
    if not isinstance(labels[0], str):
        forms.append(torch.tensor(labels, dtype=torch.float64))

    results = [[part.tolist() for part in parts(form, how, sites=sites, alpha=alpha)] for form in forms]

    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("how", WAYS)
def test_another_seed_divides_otherwise_and_the_same_seed_the_same_way(how):
    first, again, other = ([part.tolist() for part in parts(DIGITS, how, seed=seed)] for seed in (1, 1, 2))

    assert first == again
    assert first != other


def test_the_division_is_the_same_on_every_machine_and_in_every_version():
    """Written down once: who changes it changes the results of everybody's seeds."""
    labels = [0] * 4 + [1] * 4 + [2] * 4
    divided = {how: [part.tolist() for part in parts(labels, how, sites=3)] for how in WAYS}

    assert divided == {
        "iid": [[1, 4, 7, 8], [2, 6, 10, 11], [0, 3, 5, 9]],
        "dirichlet": [[4, 5, 6, 7], [8, 9, 10, 11], [0, 1, 2, 3]],
        "shards": [[2, 3, 4, 5], [6, 7, 10, 11], [0, 1, 8, 9]],
        "column": [[4, 5, 6, 7], [8, 9, 10, 11], [0, 1, 2, 3]],
    }


@pytest.mark.parametrize("how", ["iid", "dirichlet"])
def test_parts_have_the_same_size_or_one_more(how):
    assert sorted(map(len, parts(DIGITS[:998], how))) == [249, 249, 250, 250]


def test_iid_takes_the_number_of_samples_alone():
    assert [part.tolist() for part in parts(100)] == [part.tolist() for part in parts(np.arange(100))]


def test_iid_parts_have_all_labels():
    assert [distinct(DIGITS, part) for part in parts(DIGITS)] == [10, 10, 10, 10]


def test_the_smaller_alpha_the_fewer_labels_has_a_site():
    """Dir(alpha p) with p = 1/10: for alpha 1000 the shares are near 1/10, for 0.001 nearly one label has all."""
    largest = {}
    for alpha in (0.001, 1.0, 1000.0):
        divided = parts(DIGITS, "dirichlet", sites=10, alpha=alpha)
        largest[alpha] = np.mean([np.bincount(DIGITS[part], minlength=10).max() / len(part) for part in divided])

    assert largest[0.001] > 0.8 > largest[1.0] > 0.3 > largest[1000.0]


def test_training_and_test_data_with_the_same_shares_of_labels_get_the_same_mixes():
    train, test = np.repeat(np.arange(10), 1000), np.repeat(np.arange(10), 500)
    for of_train, of_test in zip(
        parts(train, "dirichlet", sites=2, alpha=10.0), parts(test, "dirichlet", sites=2, alpha=10.0), strict=True
    ):
        shares = [np.bincount(labels[part]) / len(part) for labels, part in ((train, of_train), (test, of_test))]
        assert np.abs(shares[0] - shares[1]).max() < 0.05


def test_labels_that_are_not_balanced_keep_their_shares_over_all_sites():
    labels = np.repeat([0, 1], [900, 100])

    divided = parts(labels, "dirichlet", alpha=0.1)

    assert sum(np.bincount(labels[part], minlength=2)[1] for part in divided) == 100
    assert {len(part) for part in divided} == {250}


def test_an_alpha_too_small_for_a_float_still_divides_all():
    assert all_of(parts(DIGITS, "dirichlet", alpha=5e-324)) == list(range(1000))


def test_with_two_shards_of_as_many_labels_a_site_has_two_of_them():
    """10 labels of 100 samples, 5 sites of 2 shards: a shard is a label."""
    divided = parts(DIGITS, "shards", sites=5)

    assert [(distinct(DIGITS, part), len(part)) for part in divided] == [(2, 200)] * 5
    assert {distinct(DIGITS, part) for part in parts(DIGITS, "shards", sites=10, shards_per_site=1)} == {1}


def test_a_column_gives_all_samples_of_a_value_to_one_site():
    hospital = ["north", "south", "north", "west", "east", "south", "north"]

    divided = parts(hospital, "column", sites=2)

    assert sorted(distinct(hospital, part) for part in divided) == [2, 2]
    owners = {hospital[index]: {number for number, part in enumerate(divided) if index in part} for index in range(7)}
    assert all(len(sites) == 1 for sites in owners.values())


@pytest.mark.parametrize(
    ("labels", "settings", "said"),
    [
        (3, {}, "3 samples for 4 sites: one would have none"),
        ([], {}, "0 samples for 4 sites"),
        (-5, {}, "0 samples for 4 sites"),
        (10, {"how": "shards"}, "how='shards' needs the labels, not their number"),
        (DIGITS, {"how": "dirichlett"}, "no way 'dirichlett'"),
        (DIGITS, {"how": "dirichlet", "alpha": 0}, "alpha must be a finite number above 0, not 0"),
        (DIGITS, {"how": "dirichlet", "alpha": -1.0}, "alpha must be"),
        (DIGITS, {"how": "dirichlet", "alpha": float("nan")}, "alpha must be"),
        (DIGITS, {"how": "dirichlet", "alpha": float("inf")}, "alpha must be"),
        (DIGITS, {"how": "dirichlet", "alpha": "high"}, "alpha must be"),
        (DIGITS, {"how": "shards", "shards_per_site": 0}, "shards_per_site must be a whole number from 1 on, not 0"),
        (DIGITS, {"how": "shards", "shards_per_site": 1.5}, "shards_per_site must be"),
        ([0, 1, 2, 3, 4], {"how": "shards"}, "5 samples are too few for 8 shards"),
        ([0, 1, 1, 2, 2], {"how": "column"}, "3 distinct values, for 4 sites"),
        (np.zeros((8, 2)), {}, r"shape \(8, 2\), not one label for each sample"),
        (torch.zeros(8, 2), {}, r"a Tensor of shape \(8, 2\)"),
        ([[1], [1, 2]], {}, "no row of values"),
        ({1, 2, 3, 4}, {}, r"a set of shape \(\)"),
        (True, {}, r"a bool of shape \(\)"),
        ([0.0, float("nan"), 1.0, 2.0], {}, "some labels are NaN"),
        (["a", None, "b", "c"], {"how": "column"}, "cannot be sorted"),
    ],
)
def test_what_cannot_be_divided_is_an_error_that_says_why(labels, settings, said):
    with pytest.raises(ClientError, match=said):
        parts(labels, **settings)


def test_a_way_that_is_spelled_wrong_is_told_the_nearest():
    with pytest.raises(ClientError) as raised:
        parts(DIGITS, "dirichlett")
    assert raised.value.hint == "did you mean 'dirichlet'?"


# within a run


@pytest.fixture
def server(fresh_process, serving):
    return serving()


def test_in_a_run_it_is_the_part_of_this_site_with_the_seed_of_the_run(server):
    """The server of these tests says seed 3, and that this is the fourth of five sites."""
    flare.init()

    assert flare.site() == Site(index=3, count=5, name="site-4")
    assert flare.partition(DIGITS, "shards").tolist() == parts(DIGITS, "shards", sites=5, seed=3)[3].tolist()


def test_another_rank_gets_the_same_part(fresh_process, monkeypatch):
    for name, value in {SITE: "site-4", INDEX: "3", COUNT: "5", SEED: "3"}.items():
        monkeypatch.setenv(name, value)
    flare.init(rank=1)

    assert flare.partition(DIGITS).tolist() == parts(DIGITS, sites=5, seed=3)[3].tolist()


def test_the_first_part_is_the_number_of_samples_that_goes_along_with_each_answer(server):
    flare.init()
    mine, _ = flare.partition(DIGITS), flare.partition(DIGITS[:50])
    for _ in range(2):
        server.give({"w": np.ones(1)})
        flare.receive()
        flare.send(flare.FLModel(params={"w": np.ones(1)}))
        model = server.answer()

        assert server.last.num_samples == len(mine) == 200
        assert model.meta == {}


def test_what_the_script_says_in_meta_counts_more(server):
    flare.init()
    server.give({"w": np.ones(1)})
    flare.partition(DIGITS)
    flare.receive()

    flare.send(flare.FLModel(params={"w": np.ones(1)}, meta={"NUM_SAMPLES": np.int32(7)}))

    server.answer()
    assert server.last.num_samples == 7


def test_a_script_that_tells_nothing_sends_no_number(server):
    flare.init()
    server.give({"w": np.ones(1)})
    flare.receive()

    flare.send(flare.FLModel(params={"w": np.ones(1)}))

    server.answer()
    assert server.last.num_samples is None
