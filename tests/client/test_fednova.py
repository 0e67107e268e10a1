"""How far a site trains, as FedNova counts it: with the gradient 1, a step of SGD is the sum of its weights."""

import pytest
import torch

from fedsag_cli.client.fednova import FedNova
from fedsag_cli.model import FEDNOVA_STEPS, NUM_STEPS

pytestmark = pytest.mark.usefixtures("one_thread")


def steps(optimizer, w, number):
    for _ in range(number):
        w.grad = torch.ones_like(w)
        optimizer.step()


def test_without_momentum_it_is_the_number_of_steps():
    w = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([w], lr=0.1)
    fednova = FedNova(optimizer)

    steps(optimizer, w, 3)

    assert fednova.finish(num_examples=40) == {NUM_STEPS: 40, FEDNOVA_STEPS: 3.0}


def test_with_momentum_it_is_the_papers_sum():
    """(3 - 0.5 * (1 - 0.5^3) / (1 - 0.5)) / (1 - 0.5) = 4.25."""
    w = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([w], lr=0.1, momentum=0.5)
    fednova = FedNova(optimizer)

    steps(optimizer, w, 3)

    assert fednova.finish(1)[FEDNOVA_STEPS] == 4.25


@pytest.mark.parametrize("more", [{}, {"dampening": 0.25}, {"nesterov": True}])
def test_each_kind_of_momentum_counts_as_torch_does_it(more):
    w = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([w], lr=0.5, momentum=0.9, **more)
    fednova = FedNova(optimizer)

    steps(optimizer, w, 5)

    assert fednova.finish(1)[FEDNOVA_STEPS] == pytest.approx(-w.item() / 0.5)


def test_a_learning_rate_that_falls_counts_less():
    """1 + 0.5 + 0.25."""
    w = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([w], lr=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    fednova = FedNova(optimizer)

    for _ in range(3):
        steps(optimizer, w, 1)
        schedule.step()

    assert fednova.finish(1)[FEDNOVA_STEPS] == 1.75


def test_after_the_end_no_step_counts():
    w = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([w], lr=1.0)
    first = FedNova(optimizer)
    steps(optimizer, w, 1)
    first.finish(1)

    second = FedNova(optimizer)
    steps(optimizer, w, 2)

    assert (first._norm, second.finish(1)[FEDNOVA_STEPS]) == (1.0, 2.0)


def test_steps_that_it_cannot_count_are_an_error():
    w, u = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))

    with pytest.raises(ValueError, match="cannot count the steps of Adam: use SGD"):
        FedNova(torch.optim.Adam([w]))
    with pytest.raises(ValueError, match="have different momentum"):
        FedNova(torch.optim.SGD([{"params": [w], "momentum": 0.9}, {"params": [u]}], lr=1))
    with pytest.raises(ValueError, match="has made no step"):
        FedNova(torch.optim.SGD([w])).finish(1)
