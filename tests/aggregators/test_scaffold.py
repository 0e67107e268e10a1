"""SCAFFOLD with two sites whose losses are parabolas, so that every number can be done by hand.

a: y^2 / 2, with the gradient y. b: 3 (y - 4)^2 / 2, with the gradient 3 (y - 4). Their mean is smallest at 3.
"""

import numpy as np
import pytest
import torch

from fedsag_cli.aggregators.fedavg import FedAvg
from fedsag_cli.aggregators.scaffold import Scaffold
from fedsag_cli.client.scaffold import Scaffold as SiteScaffold
from fedsag_cli.errors import TensorError
from fedsag_cli.model import NUM_STEPS, SCAFFOLD_CTRL_DIFF, SCAFFOLD_CTRL_GLOBAL, Cohort, FLModel, ParamsType, Reply
from fedsag_cli.testing import FakeClients, FakePersistor
from fedsag_cli.workflows.run import Run
from fedsag_cli.workflows.scatter_and_gather import ScatterAndGather

pytestmark = pytest.mark.usefixtures("one_thread")

GRADIENTS = {"a": lambda y: y, "b": lambda y: 3 * (y - 4)}


def site(name, state, *, uses_scaffold=True, diff=False):
    """A client that makes two steps with the learning rate 1/4."""

    def train(model):
        net = torch.nn.Module()
        net.y = torch.nn.Parameter(model.params["y"].clone())
        optimizer = torch.optim.SGD(net.parameters(), lr=0.25)
        scaffold = SiteScaffold(net, optimizer, model, state) if uses_scaffold else None
        for _ in range(2):
            net.y.grad = GRADIENTS[name](net.y.detach())
            optimizer.step()
        meta = scaffold.finish() if scaffold else {}
        y = net.y.detach() - (model.params["y"] if diff else 0)
        return FLModel(params={"y": y}, params_type=ParamsType.DIFF if diff else ParamsType.FULL, meta=meta)

    return train


def trained(aggregator, num_rounds, clients, **settings):
    """The global models after each round."""
    persistor = FakePersistor(y=torch.tensor([0.0]))
    workflow = ScatterAndGather(aggregator, persistor, num_rounds=num_rounds, **settings)
    workflow.run(clients, Run(emit=lambda event: None))
    return [model.params["y"].item() for model in persistor.saved]


def both(states=None, **how):
    states = states or {"a": {}, "b": {}}
    return FakeClients(**{name: site(name, state, **how) for name, state in states.items()})


@pytest.mark.parametrize("diff", [False, True])
def test_two_rounds_are_as_by_hand(diff):
    """Round 0, without corrections: a stays at 0. b goes to 3 and 3.75, so c_b = -3.75 / (2 * 0.25) = -7.5.

    c = -7.5 / 2 = -3.75. Round 1, from 1.875: a's steps go by y / 4 - 3.75 / 4, to 2.34375 and 2.6953125, so
    c_a = 0 + 3.75 + (1.875 - 2.6953125) / 0.5 = 2.109375; b's by 3 (y - 4) / 4 + 3.75 / 4, to the same point, so
    c_b = -7.5 - 3.75 + 7.5 - 1.640625 = -5.390625. c is their mean.
    """
    aggregator, states = Scaffold(), {"a": {}, "b": {}}

    found = trained(aggregator, 2, both(states, diff=diff))

    assert found == [1.875, 2.6953125]
    assert aggregator.state()["c"]["y"].item() == (2.109375 - 5.390625) / 2
    assert [states[name]["scaffold_c_i"]["y"].item() for name in "ab"] == [2.109375, -5.390625]


def test_it_converges_where_the_mean_loss_is_smallest_and_fedavg_does_not():
    """One round of FedAvg makes 0.3125 y + 1.875 of y: it ends at 1.875 / 0.6875."""
    scaffold = trained(Scaffold(), 40, both())
    fedavg = trained(FedAvg(), 40, both(uses_scaffold=False))

    assert scaffold[-1] == pytest.approx(3.0, abs=1e-5)
    assert fedavg[-1] == pytest.approx(30 / 11, abs=1e-5)


def test_with_one_of_two_sites_in_each_round_it_converges_too():
    found = trained(Scaffold(), 200, both(), num_clients=1)

    assert found[-1] == pytest.approx(3.0, abs=0.05)


def update(change, steps=1.0, y=0.0):
    meta = {NUM_STEPS: steps, SCAFFOLD_CTRL_DIFF: {"y": torch.tensor([change])}}
    return FLModel(params={"y": torch.tensor([y])}, meta=meta)


def one_round(aggregator, sites, num_clients, **updates):
    sent = FLModel(params={"y": torch.tensor([0.0])})
    cohort = Cohort(sites=sites, num_clients=num_clients, round_num=0, rng=np.random.default_rng(0))
    model = aggregator.begin(sent, cohort)
    for name, each in updates.items():
        aggregator.accept(Reply(site=name, model=each))
    aggregator.aggregate()
    return model


def test_the_servers_control_variate_moves_by_the_share_of_sites_that_answered():
    """2 of 4: c = 2 / 4 * (1 * 8 + 3 * 4) / 4."""
    aggregator = Scaffold()

    one_round(aggregator, ["a", "b", "d"], 4, a=update(8.0), b=update(4.0, steps=3))

    assert aggregator.state()["c"]["y"].tolist() == [2.5]


def test_with_equal_weights_it_is_the_papers_sum_over_all_sites():
    """(8 + 4) / 4."""
    aggregator = Scaffold(weigh_by_local_iter=False)

    one_round(aggregator, ["a", "b"], 4, a=update(8.0), b=update(4.0, steps=3))

    assert aggregator.state()["c"]["y"].tolist() == [3.0]


def test_each_model_is_sent_with_the_control_variate_and_the_first_with_zeros():
    aggregator = Scaffold()

    first = one_round(aggregator, ["a"], 1, a=update(8.0))
    second = one_round(aggregator, ["a"], 1, a=update(-2.0))

    assert first.meta[SCAFFOLD_CTRL_GLOBAL]["y"].tolist() == [0.0]
    assert second.meta[SCAFFOLD_CTRL_GLOBAL]["y"].tolist() == [8.0]


def test_a_restored_aggregator_goes_on_from_the_same_bits():
    whole, half = Scaffold(), Scaffold()
    one_round(whole, ["a"], 3, a=update(0.1))
    half.restore(whole.state())

    again = [one_round(each, ["a"], 3, a=update(0.7)).meta[SCAFFOLD_CTRL_GLOBAL]["y"] for each in (whole, half)]

    assert torch.equal(*again)
    assert torch.equal(whole.state()["c"]["y"], half.state()["c"]["y"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (None, r"meta has no 'scaffold_c_diff', which the aggregator Scaffold needs"),
        ({"z": torch.zeros(1)}, r"meta\['scaffold_c_diff'\]: params: 'z' was not in the model"),
        ({"y": torch.zeros(2)}, r"meta\['scaffold_c_diff'\]: params: 'y' has shape \[2\]"),
        ({"y": torch.tensor([float("nan")])}, r"meta\['scaffold_c_diff'\]: params: 'y' has 1 numbers that are NaN"),
    ],
)
def test_a_change_that_does_not_fit_is_refused_before_anything_is_added(change, says):
    aggregator, wrong = Scaffold(), update(1.0, y=5.0)
    wrong.meta[SCAFFOLD_CTRL_DIFF] = change

    with pytest.raises(TensorError, match=says):
        aggregator.accept(Reply(site="a", model=wrong))

    assert not aggregator.aggregate().params
    assert aggregator.state() == {"c": {}}
