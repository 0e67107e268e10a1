"""FedProx's term and its coefficient: every number is done by hand."""

import copy

import pytest
from runs import run, torch_job

from fedsag_cli.client.fedprox_mu import get_fedprox_mu
from fedsag_cli.model import FLModel

torch = pytest.importorskip("torch")

from fedsag_cli.client.fedprox import PTFedProxLoss  # noqa: E402  needs torch

pytestmark = pytest.mark.usefixtures("one_thread")


def net(weights, bias):
    """A linear model of two inputs."""
    made = torch.nn.Linear(2, 1)
    made.load_state_dict({"weight": torch.tensor([weights]), "bias": torch.tensor([bias])})
    return made


def test_the_term_is_half_mu_times_the_squared_distance_and_pulls_back():
    trains, received = net([1.0, 2.0], 3.0), net([0.0, 4.0], 2.0)

    term = PTFedProxLoss(mu=0.5)(trains, received)
    term.backward()

    assert term.item() == 0.25 * (1 + 4 + 1)
    assert trains.weight.grad.tolist() == [[0.5 * 1, 0.5 * -2]]
    assert trains.bias.grad.tolist() == [0.5]
    assert received.weight.grad is None


def test_what_is_frozen_does_not_count():
    trains, received = net([1.0, 2.0], 3.0), net([0.0, 4.0], 2.0)
    trains.bias.requires_grad_(False)

    assert PTFedProxLoss(mu=0.5)(trains, received).item() == 0.25 * (1 + 4)
    assert PTFedProxLoss(mu=0.5)(trains.requires_grad_(False), received).item() == 0


def test_a_model_that_is_wrapped_is_held_near_a_bare_one():
    wrapped = torch.nn.Sequential(net([1.0, 2.0], 3.0))

    assert PTFedProxLoss(mu=2)(input=wrapped, target=net([1.0, 2.0], 0.0)).item() == 9.0


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_the_term_has_single_precision_at_least(dtype, expected):
    trains = net([1.0, 2.0], 3.0).to(dtype)

    assert PTFedProxLoss()(trains, copy.deepcopy(trains)).dtype is expected


@pytest.mark.parametrize("mu", [-0.1, float("nan"), float("inf")])
def test_a_coefficient_that_would_not_hold_anything_is_an_error(mu):
    with pytest.raises(ValueError, match="mu must be a finite number from 0 on, not"):
        PTFedProxLoss(mu)


def test_models_that_are_not_the_same_are_an_error_that_says_where():
    loss = PTFedProxLoss()

    with pytest.raises(ValueError, match="the model has 2 parameters, the global one 1"):
        loss(torch.nn.Linear(2, 1), torch.nn.Linear(2, 1, bias=False))
    with pytest.raises(ValueError, match=r"'weight' is \[1, 2\] in the trained model and \[1, 3\] in the global model"):
        loss(torch.nn.Linear(2, 1), torch.nn.Linear(3, 1))


@pytest.mark.parametrize("mu", [0.25, 1])
def test_the_coefficient_comes_with_the_model(mu):
    assert get_fedprox_mu(FLModel(meta={"fedprox_mu": mu})) == mu


@pytest.mark.parametrize("mu", [0, -0.5, True, "0.5", float("nan"), float("inf")])
def test_a_coefficient_that_is_none_is_an_error_that_shows_it(mu):
    with pytest.raises(ValueError, match=rf"the received model has {mu!r} as meta\['fedprox_mu'\]"):
        get_fedprox_mu(FLModel(meta={"fedprox_mu": mu}))


def test_a_model_without_a_coefficient_is_an_error_that_says_where_to_set_it():
    with pytest.raises(ValueError, match=r"has no meta\['fedprox_mu'\], .*: set fedprox_mu in the job"):
        get_fedprox_mu(FLModel())


@pytest.mark.slow
def test_a_fedprox_script_of_theirs_trains_what_is_done_by_hand(tmp_path):
    script = """
        import copy
        import torch
        import nvflare.client as flare
        from net import Net
        from nvflare.app_common.app_constant import AlgorithmConstants
        from nvflare.app_common.utils.fedprox_utils import get_fedprox_mu
        from nvflare.app_opt.pt.fedproxloss import PTFedProxLoss
        from nvflare.app_opt.pt.scaffold import get_lr_values

        flare.init()
        model = Net()
        while flare.is_running():
            input_model = flare.receive()
            assert input_model.meta[AlgorithmConstants.FEDPROX_MU] == 0.5
            model.load_state_dict(input_model.params)
            global_model = copy.deepcopy(model)
            criterion_prox = PTFedProxLoss(mu=get_fedprox_mu(input_model))
            optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
            assert get_lr_values(optimizer) == [0.5]
            for _ in range(2):
                optimizer.zero_grad()
                loss = 3 * model.w.sum()
                loss += criterion_prox(model, global_model)
                loss.backward()
                optimizer.step()
            flare.send(flare.FLModel(params=model.state_dict(), metrics={"mean": 0.0}))
    """
    one_weight = """
        import torch

        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.w = torch.nn.Parameter(torch.tensor([1.0]))
    """

    ran = run(torch_job(tmp_path / "job", script, net=one_weight, fedprox_mu=0.5), "-n", 2, "-t", 2)

    assert ran.code == 0, ran
    saved = ran.workspace / "server" / "simulate_job" / "app_server" / "FL_global_model.pt"
    # a round's steps are -0.5 * 3 and, once it is 1.5 away, -0.5 * (3 - 0.5 * 1.5)
    assert torch.load(saved, weights_only=True)["model"]["w"].tolist() == [1 - 2 * (1.5 + 1.125)]
