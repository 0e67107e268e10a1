"""The account of the Gaussian mechanism, against formulas that are written here."""

import math
import sys
from statistics import NormalDist

import pytest
from plans import plan

from fedsag_cli.accountants import Accountant
from fedsag_cli.accountants.gaussian import GaussianAccountant, epsilon_of
from fedsag_cli.errors import JobError
from fedsag_cli.model import Stateful
from fedsag_cli.plan import ClientConfig, FilterSpec, SitePlan


def delta_of(epsilon, sigma):
    """Balle and Wang (2018), theorem 8, for sensitivity 1."""
    phi = NormalDist().cdf
    return phi(0.5 / sigma - epsilon * sigma) - math.exp(epsilon) * phi(-0.5 / sigma - epsilon * sigma)


def epsilon_by_theorem_9(q, sigma, rounds, delta):
    """Wang et al. (2019), theorem 9, at whole orders, for sensitivity 1; from RDP to epsilon as in Mironov (2017)."""

    def moment(alpha):
        first = 4 * math.expm1(1 / sigma**2)
        total = 1 + q**2 * math.comb(alpha, 2) * min(first, 2 * math.exp(1 / sigma**2))
        for j in range(3, alpha + 1):
            total += q**j * math.comb(alpha, j) * math.exp((j - 1) * j / (2 * sigma**2)) * 2
        return math.log(total) / (alpha - 1)

    return min(rounds * moment(alpha) + math.log(1 / delta) / (alpha - 1) for alpha in range(2, 20))


@pytest.mark.parametrize(("noise_multiplier", "rounds"), [(1.0, 1), (4.0, 10), (2.0, 3), (20.0, 50)])
def test_rounds_of_all_clients_are_one_gaussian_mechanism_with_less_noise(noise_multiplier, rounds):
    """The sum of clipped updates changes by up to 2 S, and T rounds divide the multiplier by sqrt(T)."""
    epsilon = epsilon_of({(10, 10): rounds}, noise_multiplier, 1e-5)

    assert delta_of(epsilon, noise_multiplier / 2 / math.sqrt(rounds)) == pytest.approx(1e-5, rel=1e-6)


def test_the_known_value_for_one_gaussian_mechanism():
    """Noise of one sensitivity, delta 1e-5: 4.377, where the classical bound sqrt(2 ln(1.25 / delta)) is 4.845."""
    assert epsilon_of({(5, 5): 1}, 2.0, 1e-5) == pytest.approx(4.3772, abs=1e-4)


@pytest.mark.parametrize(("asked", "clients", "rounds"), [(10, 100, 10), (10, 1000, 100), (1, 50, 200)])
def test_a_draw_of_clients_spends_less_and_no_more_than_the_papers_theorem_says(asked, clients, rounds):
    drawn = epsilon_of({(asked, clients): rounds}, 2.0, 1e-5)

    assert 0 < drawn < epsilon_of({(clients, clients): rounds}, 2.0, 1e-5)
    assert drawn <= epsilon_by_theorem_9(asked / clients, 1.0, rounds, 1e-5)


def test_the_account_of_a_draw_is_that_of_dp_accounting():
    """10 rounds of 10 of 100 clients, noise of one sensitivity: 4.586 with the orders of dp-accounting."""
    assert epsilon_of({(10, 100): 10}, 2.0, 1e-5) == pytest.approx(4.5863, rel=1e-3)


def test_a_draw_never_spends_more_than_no_draw():
    """The theorem is loose for a draw of half of the clients."""
    assert epsilon_of({(50, 100): 100}, 8.0, 1e-5) == epsilon_of({(100, 100): 100}, 8.0, 1e-5)


def test_rounds_of_several_kinds_add_up():
    few, many = {(10, 100): 10}, {(10, 100): 10, (100, 100): 1}

    assert epsilon_of(few, 2.0, 1e-5) < epsilon_of(many, 2.0, 1e-5) < epsilon_of({(100, 100): 11}, 2.0, 1e-5)


def test_without_noise_epsilon_is_infinite_and_without_a_round_it_is_zero():
    assert epsilon_of({(1, 2): 1}, 0.0, 1e-5) == math.inf
    assert epsilon_of({}, 1.0, 1e-5) == 0.0


def noised(tasks=("train",), path="GaussianPrivacy", noise_multiplier=4.0):
    return FilterSpec(tasks=list(tasks), path=path, args={"clip_norm": 1.0, "noise_multiplier": noise_multiplier})


def plan_of(*filters, tasks=("train",)):
    """A site for each list of filters."""
    sites = [
        SitePlan(
            name=f"site-{number}",
            group=0,
            script="train.py",
            args=[],
            command=[],
            env={},
            config=ClientConfig(tasks=tuple(tasks), task_result_filters=list(own)),
        )
        for number, own in enumerate(filters, start=1)
    ]
    return plan(names=[site.name for site in sites], sites=sites)


def spent(accountant, rounds):
    return [accountant.spend(1, 2) for _ in range(rounds)][-1]


def test_it_reads_the_noise_from_the_filters_and_the_client_with_the_least_counts():
    accountant = GaussianAccountant(delta=1e-6)
    mine = noised(path="fedsag_cli.filters.gaussian_privacy.GaussianPrivacy", noise_multiplier=3.0)

    accountant.prepare(plan_of([noised(["val*"]), noised(["tr*"])], [mine]))

    assert spent(accountant, 3).epsilon == pytest.approx(epsilon_of({(2, 2): 3}, 3.0, 1e-6))
    assert spent(accountant, 1).delta == 1e-6


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (plan_of([noised()], []), "site-2 has no filter GaussianPrivacy for the task 'train'"),
        (plan_of([noised(["validate"])]), "site-1 has no filter GaussianPrivacy for the task 'train'"),
        (
            plan_of([noised()], tasks=["train", "submit_model"]),
            "site-1 has no filter GaussianPrivacy for .*'submit_model'",
        ),
    ],
)
def test_a_client_that_sends_without_noise_is_an_error(plan, said):
    with pytest.raises(JobError, match=said):
        GaussianAccountant(delta=1e-5).prepare(plan)


def test_a_resumed_account_goes_on():
    first, second = GaussianAccountant(delta=1e-5), GaussianAccountant(delta=1e-5)
    for each in (first, second):
        each.prepare(plan_of([noised()]))
    spent(first, 3)

    second.restore(first.state())

    assert spent(second, 1) == spent(first, 1)
    assert isinstance(first, Accountant)
    assert isinstance(first, Stateful)


def test_without_dp_accounting_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting.rdp", None)

    with pytest.raises(JobError, match="needs dp-accounting") as caught:
        GaussianAccountant(delta=1e-5)

    assert caught.value.hint == "pip install 'fedsag[privacy]'"
