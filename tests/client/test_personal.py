"""What a site keeps for itself: Ditto's personal model, FedBN's layers; and MOON's term, with numbers done by hand."""

import math

import pytest
import torch

from fedsag_cli.client import fedbn
from fedsag_cli.client.ditto import Ditto
from fedsag_cli.client.moon import contrastive

pytestmark = pytest.mark.usefixtures("one_thread")


def line(weights):
    made = torch.nn.Linear(2, 1, bias=False)
    made.load_state_dict({"weight": torch.tensor([weights])})
    return made


def test_the_personal_model_begins_with_the_received_one_and_goes_on_from_its_own():
    state, first, later = {}, line([0.0, 0.0]), line([0.0, 0.0])
    ditto = Ditto(first, {"weight": torch.tensor([[1.0, 2.0]])}, state=state)
    began = first.weight.tolist()
    with torch.no_grad():
        first.weight += 1
    ditto.keep()
    with torch.no_grad():
        first.weight += 1  # after it was kept

    Ditto(later, {"weight": torch.tensor([[9.0, 9.0]])}, state=state)

    assert began == [[1.0, 2.0]]
    assert later.weight.tolist() == [[2.0, 3.0]]


def test_the_penalty_is_half_lambda_times_the_squared_distance_and_pulls_to_the_received_model():
    personal = line([0.0, 0.0])
    ditto = Ditto(personal, {"weight": torch.tensor([[3.0, 0.0]])}, lam=0.5, state={"ditto": {"weight": [[1.0, 4.0]]}})

    penalty = ditto.penalty()
    penalty.backward()

    assert penalty.item() == 0.25 * (4 + 16)
    assert personal.weight.grad.tolist() == [[0.5 * -2, 0.5 * 4]]


def test_a_lambda_that_holds_nothing_is_an_error():
    with pytest.raises(ValueError, match="lam must be a finite number from 0 on, not -1"):
        Ditto(line([0.0, 0.0]), {"weight": torch.zeros(1, 2)}, lam=-1, state={})


def layers():
    net = torch.nn.Sequential(
        torch.nn.Linear(1, 2), torch.nn.BatchNorm1d(2), torch.nn.Sequential(torch.nn.LayerNorm(2))
    )
    net.add_module("last", torch.nn.SyncBatchNorm(2, track_running_stats=False))
    return net


def test_the_local_names_are_those_of_batch_norm_layers_of_any_kind():
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]

    assert fedbn.local_names(layers()) == [*[f"1.{key}" for key in norm], "last.weight", "last.bias"]
    assert fedbn.local_names(torch.nn.BatchNorm2d(3)) == norm


def test_batch_norm_layers_stay_at_home_and_the_rest_is_shared():
    state, net, again = {}, layers(), layers()
    fedbn.load(net, layers().state_dict(), state)
    with torch.no_grad():
        net[1].weight.fill_(5.0)
        net[1].running_mean.fill_(6.0)
    sent = fedbn.shared(net, state)
    with torch.no_grad():
        net[1].weight.fill_(0.0)  # after it was kept
    received = {name: torch.full_like(value, 9) for name, value in net.state_dict().items()}

    fedbn.load(again, received, state)

    assert [*sent] == ["0.weight", "0.bias", "2.0.weight", "2.0.bias"]
    assert again[1].weight.tolist() == [5.0, 5.0]
    assert again[1].running_mean.tolist() == [6.0, 6.0]
    assert again[0].weight.tolist() == [[9.0], [9.0]]


def test_moons_term_is_small_where_the_trained_model_is_near_the_received_one():
    """tau = 0.5: cosines 1 and -1 give log(1 + e^-4), cosines 0 and 0 give log 2."""
    z = torch.tensor([[2.0, 0.0]])

    assert contrastive(z, z, -z).item() == pytest.approx(math.log1p(math.exp(-4)), rel=1e-5)
    assert contrastive(z, torch.tensor([[0.0, 3.0]]), torch.tensor([[0.0, 1.0]])).item() == pytest.approx(math.log(2))


def test_only_the_trained_representation_gets_a_gradient():
    z, other, last = (torch.tensor([[1.0, x]], requires_grad=True) for x in (0.5, 1.0, -1.0))

    contrastive(z, other, last).backward()

    assert z.grad is not None
    assert (other.grad, last.grad) == (None, None)
