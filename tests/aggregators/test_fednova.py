"""FedNova by hand-computed numbers, and with two sites whose losses are parabolas and whose steps differ in number."""

import numpy as np
import pytest
import torch

from fedsag_cli.aggregators.fedavg import FedAvg
from fedsag_cli.aggregators.fednova import FedNova
from fedsag_cli.client.fednova import FedNova as SiteFedNova
from fedsag_cli.errors import TensorError
from fedsag_cli.model import FEDNOVA_STEPS, NUM_STEPS, Cohort, FLModel, ParamsType, Reply
from fedsag_cli.testing import FakeClients, FakePersistor
from fedsag_cli.workflows.run import Run
from fedsag_cli.workflows.scatter_and_gather import ScatterAndGather

pytestmark = pytest.mark.usefixtures("one_thread")

X = torch.tensor([10.0])


def update(y, examples, length, **params):
    meta = {NUM_STEPS: examples, FEDNOVA_STEPS: length}
    return FLModel(params={"w": torch.tensor([y]), **params}, meta=meta)


def merged(aggregator, sent=None, **updates):
    cohort = Cohort(sites=list(updates), num_clients=len(updates), round_num=0, rng=np.random.default_rng(0))
    aggregator.begin(FLModel(params=sent or {"w": X}), cohort)
    for site, each in updates.items():
        aggregator.accept(Reply(site=site, model=each))
    return aggregator.aggregate()


def test_each_change_is_divided_by_its_length_and_the_mean_is_as_long_as_all_are_on_average():
    """p = 1/4, 3/4; tau_eff = 1/4 * 1 + 3/4 * 4 = 3.25; 3.25 * (1/4 * 2 / 1 + 3/4 * 4 / 4) = 4.0625."""
    found = merged(FedNova(), a=update(12.0, 1, 1.0), b=update(14.0, 3, 4.0))

    assert found.params_type is ParamsType.DIFF
    assert found.params["w"].tolist() == pytest.approx([4.0625])
    assert found.meta == {"tau_eff": 3.25}


def test_a_difference_counts_as_what_it_is_the_difference_of():
    full = merged(FedNova(), a=update(12.0, 1, 1.0), b=update(14.0, 3, 4.0))
    b = update(4.0, 3, 4.0)
    b.params_type = ParamsType.DIFF

    mixed = merged(FedNova(), a=update(12.0, 1, 1.0), b=b)

    assert torch.equal(full.params["w"], mixed.params["w"])


def test_with_equal_lengths_it_is_fedavg():
    found = merged(FedNova(), a=update(12.0, 1, 5.0), b=update(14.0, 3, 5.0))

    assert found.params["w"].tolist() == pytest.approx([3.5])


def test_a_sites_weight_multiplies_its_examples():
    weighed = merged(FedNova({"b": 3}), a=update(12.0, 1, 1.0), b=update(14.0, 1, 4.0))

    assert weighed.params["w"].tolist() == pytest.approx([4.0625])


def test_what_no_gradient_changes_is_averaged():
    sent = {"w": X, "bn.running_var": torch.tensor([1.0]), "bn.num_batches_tracked": torch.tensor(0)}
    a = {"bn.running_var": torch.tensor([0.0]), "bn.num_batches_tracked": torch.tensor(1)}
    b = {"bn.running_var": torch.tensor([0.0]), "bn.num_batches_tracked": torch.tensor(9)}

    found = merged(FedNova(), sent, a=update(12.0, 1, 1.0, **a), b=update(14.0, 3, 4.0, **b))

    assert found.params["bn.running_var"].tolist() == [-1.0]
    assert found.params["bn.num_batches_tracked"].tolist() == 7


@pytest.mark.parametrize("length", [None, 0, -1.0, float("nan"), "3"])
def test_an_update_that_does_not_say_how_far_it_went_is_refused(length):
    with pytest.raises(TensorError, match="meta\\['fednova_steps'\\] must be a number above 0, not"):
        merged(FedNova(), a=update(12.0, 1, length))


def test_without_accepted_updates_nothing_changes():
    assert merged(FedNova()).params == {}


def site(target, steps):
    """A client whose loss is (y - target)^2 / 2, with one example."""

    def train(model):
        y = model.params["y"].clone().requires_grad_()
        optimizer = torch.optim.SGD([y], lr=0.01)
        fednova = SiteFedNova(optimizer)
        for _ in range(steps):
            optimizer.zero_grad()
            ((y - target) ** 2 / 2).sum().backward()
            optimizer.step()
        return FLModel(params={"y": y.detach()}, meta=fednova.finish(num_examples=1))

    return train


def test_a_site_that_makes_more_steps_does_not_pull_the_model_to_its_own_optimum():
    """The mean of the targets is 2; FedAvg weighs b's step 9 times and ends near 0.4."""
    ends = {}
    for kind in (FedAvg, FedNova):
        persistor = FakePersistor(y=torch.tensor([1.0]))
        workflow = ScatterAndGather(kind(), persistor, num_rounds=150)
        workflow.run(FakeClients(a=site(4.0, 1), b=site(0.0, 9)), Run(emit=lambda event: None))
        ends[kind] = persistor.saved[-1].params["y"].item()

    assert ends[FedAvg] == pytest.approx(0.4, abs=0.05)
    assert ends[FedNova] == pytest.approx(2.0, abs=0.05)
