"""Server optimizers by hand-computed numbers, and what holds for all of them."""

import numpy as np
import pytest
import torch

from fedsag_cli.aggregators.fedavg import FedAvg
from fedsag_cli.errors import JobError, TensorError
from fedsag_cli.model import FLModel
from fedsag_cli.testing import FakeClients, FakePersistor
from fedsag_cli.updaters.adaptive import FedAdagrad, FedAdam, FedYogi
from fedsag_cli.updaters.averaging import Averaging
from fedsag_cli.updaters.fedavgm import FedAvgM
from fedsag_cli.updaters.fedopt import FedOpt
from fedsag_cli.workflows.run import Run
from fedsag_cli.workflows.scatter_and_gather import ScatterAndGather

ADAM = {"path": "torch.optim.Adam", "args": {"lr": 0.5}}
MOMENTUM = {"path": "torch.optim.SGD", "args": {"lr": 1.0, "momentum": 0.5}}
HALVES = {"path": "torch.optim.lr_scheduler.StepLR", "args": {"step_size": 1, "gamma": 0.5}}
MAKERS = {
    "FedAvgM": FedAvgM,
    "FedAdagrad": FedAdagrad,
    "FedYogi": FedYogi,
    "FedAdam": FedAdam,
    "FedOpt": FedOpt,
    "FedOpt with Adam": lambda: FedOpt(ADAM, HALVES),
    "FedOpt with momentum": lambda: FedOpt(MOMENTUM, HALVES),
}


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


def changed(updater, *changes, start=0.0, dtype=np.float64):
    """The value of one param after each of these changes."""
    model, values = FLModel(params={"w": np.array([start], dtype)}), []
    for change in changes:
        model = updater.update(model, FLModel(params_type="DIFF", params={"w": np.array([change], dtype)}))
        values.append(model.params["w"].item())
    return values


def test_momentum_goes_on_in_the_direction_of_earlier_changes():
    """m = 1, 0.5 * 1 + 2 = 2.5, 0.5 * 2.5 + 0 = 1.25; x grows by 2 * m."""
    assert changed(FedAvgM(eta=2.0, beta=0.5), 1.0, 2.0, 0.0) == [2.0, 7.0, 9.5]


def test_adagrad_divides_by_the_root_of_all_squares():
    """v = 1 + 15 = 16, then 16 + 9 = 25; m = Delta. Steps: sqrt(15) / (4 + 1), 3 / (5 + 1)."""
    found = changed(FedAdagrad(eta=1.0, beta1=0.0, tau=1.0), 15**0.5, 3.0)

    assert found == pytest.approx([15**0.5 / 5, 15**0.5 / 5 + 0.5], rel=1e-12)


def test_adam_has_means_of_changes_and_of_squares_without_a_correction_of_bias():
    """v = 0.75 * 1 + 0.25 * 13 = 4, then 0.75 * 4 + 0.25 * 24 = 9; m = sqrt(13) / 2, then m / 2 + sqrt(24) / 2."""
    found = changed(FedAdam(eta=2.0, beta1=0.5, beta2=0.75, tau=1.0), 13**0.5, 24**0.5)

    first = 2 * (13**0.5 / 2) / (2 + 1)
    assert found == pytest.approx([first, first + 2 * (13**0.5 / 4 + 24**0.5 / 2) / (3 + 1)], rel=1e-12)


def test_yogi_moves_its_squares_by_an_amount_that_does_not_depend_on_them():
    """v = 1 + 0.25 * 12 = 4, then, as 0 < 4, 4 - 0.25 * 0 = 4; m = 0.5 * sqrt(12), then half of it."""
    found = changed(FedYogi(eta=3.0, beta1=0.5, beta2=0.75, tau=1.0), 12**0.5, 0.0)

    assert found == pytest.approx([12**0.5 / 2, 12**0.5 * 0.75], rel=1e-12)


def test_yogis_squares_become_smaller_where_the_change_is_smaller():
    """v = 1 + 0.5 * 6 = 4, then 4 - 0.5 * 2 = 3."""
    updater = FedYogi(eta=1.0, beta1=0.0, beta2=0.5, tau=1.0)
    changed(updater, 6**0.5, 2**0.5)

    assert updater.state()["v"]["w"] == pytest.approx([3.0])


def test_torchs_optimizer_steps_against_the_negative_change_and_then_the_schedule_does():
    """m = 1, 0.5 + 2 = 2.5, 1.25; rates 1, 0.5, 0.25."""
    assert changed(FedOpt(MOMENTUM, HALVES), 1.0, 2.0, 0.0) == [1.0, 2.25, 2.5625]


def test_the_default_optimizer_of_torch_is_federated_averaging():
    assert changed(FedOpt(), 1.0, -3.0) == [1.0, -2.0]


def test_a_full_aggregate_is_its_change_of_the_model(make):
    base = {"w": np.array([3.0, -1.0], np.float32)}
    full = make().update(FLModel(params=base), FLModel(params={"w": np.array([4.0, -3.0], np.float32)}))
    diff = make().update(
        FLModel(params=base), FLModel(params_type="DIFF", params={"w": np.array([1.0, -2.0], np.float32)})
    )

    assert full.params["w"].tolist() == diff.params["w"].tolist()
    assert (full.params["w"] - base["w"] > 0).tolist() == [True, False]


@pytest.mark.parametrize("kind", ["FULL", "DIFF"])
def test_statistics_and_whole_numbers_are_averaged(make, kind):
    """Twice: what an optimizer kept of the first round would move them in the second."""
    base = {
        "bn.running_mean": torch.tensor([1.0]), "bn.running_var": torch.tensor([2.0]),
        "bn.num_batches_tracked": torch.tensor(5), "mask": torch.tensor([True, False]),
    }  # fmt: skip
    full = {
        "bn.running_mean": torch.tensor([4.0]), "bn.running_var": torch.tensor([8.0]),
        "bn.num_batches_tracked": torch.tensor(9), "mask": torch.tensor([False, False]),
    }  # fmt: skip
    diff = {
        "bn.running_mean": torch.tensor([3.0]), "bn.running_var": torch.tensor([6.0]),
        "bn.num_batches_tracked": torch.tensor(4), "mask": torch.tensor([-1, 0]),
    }  # fmt: skip
    updater = make()

    for _ in range(2):
        found = updater.update(FLModel(params=base), FLModel(params_type=kind, params=full if kind == "FULL" else diff))
        assert {name: value.tolist() for name, value in found.params.items()} == {
            name: value.tolist() for name, value in full.items()
        }


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor([[1.0, 2.0]]), torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor(1.0, dtype=torch.float64),
        torch.tensor([1.0], dtype=torch.float16), np.float32(1.0), np.array([1.0], np.float16), 1.0,
    ],
    ids=lambda value: f"{type(value).__name__}-{getattr(value, 'dtype', '')}",
)  # fmt: skip
def test_a_param_keeps_its_library_dtype_and_shape(make, value):
    change = value * 0 + 1
    found = make().update(FLModel(params={"w": value}), FLModel(params_type="DIFF", params={"w": change})).params["w"]

    assert type(found) is type(value)
    assert getattr(found, "dtype", None) == getattr(value, "dtype", None)
    assert np.shape(found) == np.shape(value)
    assert float(np.sum(np.asarray(torch.as_tensor(found).float()))) > float(torch.as_tensor(value).float().sum())


def test_a_key_without_a_change_keeps_its_value_and_what_is_kept_for_it(make):
    """Its next step is that of a model that had no round between."""

    def a_round(updater, model, *names):
        changes = {name: torch.tensor([1.0]) for name in names}
        return updater.update(model, FLModel(params_type="DIFF", params=changes))

    updater, start = make(), FLModel(params={"v": torch.tensor([0.0]), "w": torch.tensor([0.0])})
    first = a_round(updater, start, "v", "w")
    second = a_round(updater, first, "v")

    assert second.params["w"].tolist() == first.params["w"].tolist()
    assert list(second.params) == ["v", "w"]


def test_neither_model_nor_aggregate_is_changed(make):
    updater, model = make(), FLModel(params={"w": torch.tensor([1.0]), "n": torch.tensor([1])})
    aggregate = FLModel(params_type="DIFF", params={"w": torch.tensor([2.0]), "n": torch.tensor([1])})
    for _ in range(2):
        updater.update(model, aggregate)

    assert [model.params["w"].item(), model.params["n"].item()] == [1.0, 1]
    assert [aggregate.params["w"].item(), aggregate.params["n"].item()] == [2.0, 1]


def test_a_model_without_params_becomes_the_aggregate(make):
    found = make().update(FLModel(params={}), FLModel(params={"w": torch.tensor([2.0])}))

    assert found.params["w"].tolist() == [2.0]


@pytest.mark.parametrize("kind", ["FULL", "DIFF"])
def test_a_key_that_the_model_does_not_have_is_named(make, kind):
    with pytest.raises(TensorError, match="'x'"):
        make().update(
            FLModel(params={"w": torch.tensor([2.0])}), FLModel(params_type=kind, params={"x": torch.tensor([2.0])})
        )


def test_a_restored_updater_goes_on_with_the_same_bits(make):
    generator = torch.Generator().manual_seed(7)
    rounds = [
        FLModel(params_type="DIFF", params={name: torch.randn(3, generator=generator) for name in "vw"})
        for _ in range(6)
    ]
    straight, before, after = make(), make(), make()
    model = models = FLModel(params={name: torch.zeros(3) for name in "vw"})
    for aggregate in rounds:
        model = straight.update(model, aggregate)
    for aggregate in rounds[:3]:
        models = before.update(models, aggregate)
    after.restore(before.state())
    again = make()
    again.restore(after.state())  # as after a kill before the first round
    for aggregate in rounds[3:]:
        models = again.update(models, aggregate)

    assert {name: value.tolist() for name, value in models.params.items()} == {
        name: value.tolist() for name, value in model.params.items()
    }


def test_every_kind_of_schedule_goes_on_where_it_was():
    described = [
        ("CosineAnnealingLR", {"T_max": 3, "eta_min": 0.1}),
        ("MultiStepLR", {"milestones": [2, 4], "gamma": 0.5}),
        ("ExponentialLR", {"gamma": 0.9}),
        ("OneCycleLR", {"max_lr": 1.0, "total_steps": 10}),
    ]
    for name, args in described:
        schedule = {"path": f"torch.optim.lr_scheduler.{name}", "args": args}
        straight, before, after = (FedOpt(MOMENTUM, schedule) for _ in range(3))
        values = changed(straight, 1.0, 1.0, 1.0, 1.0, 1.0)
        half = changed(before, 1.0, 1.0, 1.0)
        after.restore(before.state())

        assert half + changed(after, 1.0, 1.0, start=half[-1]) == values, name


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"path": "torch.optim.Adamm", "args": {}}, "optimizer_args: there is no class 'torch.optim.Adamm'"),
        ({"path": "torch.optim.Adam", "args": {"rate": 1}}, "optimizer_args: torch.optim.Adam: .*'rate'"),
        ({"lr": 1.0}, "optimizer_args: there is no class ''"),
    ],
)
def test_an_optimizer_that_cannot_be_made_is_told_at_once(args, says):
    with pytest.raises(JobError, match=says):
        FedOpt(args)


def test_a_scheduler_that_cannot_be_made_is_told_at_once():
    with pytest.raises(JobError, match=r"lr_scheduler_args: torch.optim.lr_scheduler.StepLR: .*'step_size'"):
        FedOpt(lr_scheduler_args={"path": "torch.optim.lr_scheduler.StepLR"})


def test_a_workflow_asks_its_updater_for_the_next_model():
    """Both clients change w by 1; m = 1, then 1.5."""
    clients = FakeClients(a=lambda model: FLModel(params={"w": model.params["w"] + 1}))
    run = Run(emit=lambda event: None)

    ScatterAndGather(FedAvg(), FakePersistor(w=np.zeros(1)), updater=FedAvgM(beta=0.5), num_rounds=2).run(clients, run)

    assert run.model.params["w"].tolist() == [2.5]


def test_averaging_adds_a_change_and_takes_over_a_model():
    model = FLModel(params={"v": np.array([1.0]), "w": np.array([2.0])})

    added = Averaging().update(model, FLModel(params_type="DIFF", params={"w": np.array([5.0])}))
    taken = Averaging().update(model, FLModel(params={"w": np.array([5.0])}))

    assert [value.item() for value in added.params.values()] == [1.0, 7.0]
    assert [value.item() for value in taken.params.values()] == [1.0, 5.0]
