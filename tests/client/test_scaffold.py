"""A site's control variate, by hand: with the gradient g, a step with the learning rate eta is -eta * (g - c_i + c)."""

import numpy as np
import pytest
import torch
from runs import Running, run, torch_job

from fedsag_cli.client import pt_scaffold
from fedsag_cli.client.pt_scaffold import PTScaffoldHelper
from fedsag_cli.client.scaffold import Scaffold
from fedsag_cli.interop.constants import get_lr_values
from fedsag_cli.model import SCAFFOLD_CTRL_DIFF, SCAFFOLD_CTRL_GLOBAL, FLModel

pytestmark = pytest.mark.usefixtures("one_thread")


def net(w=7.0, u=0.0):
    """Two parameters of one number."""
    made = torch.nn.Module()
    made.w = torch.nn.Parameter(torch.tensor([w]))
    made.u = torch.nn.Parameter(torch.tensor([u]))
    return made


def received(**c):
    return FLModel(meta={SCAFFOLD_CTRL_GLOBAL: {name: torch.tensor([value]) for name, value in c.items()}})


def keeps(**c_i):
    return {"scaffold_c_i": {name: torch.tensor([value]) for name, value in c_i.items()}}


def steps(made, optimizer, number, gradient=1.0):
    for _ in range(number):
        for parameter in made.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()


def numbers(tensors):
    return {name: value.item() for name, value in tensors.items()}


def test_each_step_is_corrected_and_the_control_variate_becomes_the_mean_gradient():
    """w: 7 - 2 * 0.5 * (1 - 2 + 3) = 5. c_i+ = 2 - 3 + (7 - 5) / (2 * 0.5) = 1, the gradient."""
    made, state = net(), keeps(w=2.0, u=0.0)
    optimizer = torch.optim.SGD(made.parameters(), lr=0.5)
    scaffold = Scaffold(made, optimizer, received(w=3.0, u=0.0), state)

    steps(made, optimizer, 2)
    meta = scaffold.finish()

    assert made.w.item() == 5.0
    assert numbers(state["scaffold_c_i"]) == {"w": 1.0, "u": 1.0}
    assert numbers(meta[SCAFFOLD_CTRL_DIFF]) == {"w": -1.0, "u": 1.0}


def test_the_first_round_begins_with_zeros():
    made, state = net(), {}
    optimizer = torch.optim.SGD(made.parameters(), lr=0.5)
    scaffold = Scaffold(made, optimizer, received(w=0.0, u=0.0), state)

    steps(made, optimizer, 2)

    assert numbers(scaffold.finish()[SCAFFOLD_CTRL_DIFF]) == {"w": 1.0, "u": 1.0}
    assert made.w.item() == 6.0


def test_learning_rates_may_differ_between_parameters_and_steps():
    """w: 0.5 and 0.25, u: 0.25 and 0.125; both have the gradient 1, so c_i+ is 1."""
    made, state = net(), keeps(w=2.0, u=4.0)
    optimizer = torch.optim.SGD([{"params": [made.w], "lr": 0.5}, {"params": [made.u], "lr": 0.25}])
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    scaffold = Scaffold(made, optimizer, received(w=3.0, u=0.0), state)

    for _ in range(2):
        steps(made, optimizer, 1)
        schedule.step()
    scaffold.finish()

    assert made.w.item() == 7.0 - 0.75 * 2
    assert made.u.item() == 0.375 * 3
    assert numbers(state["scaffold_c_i"]) == {"w": 1.0, "u": 1.0}


def test_with_momentum_the_control_variate_is_the_mean_step_and_stays_so():
    """Steps of 0.5 * 1 and 0.5 * 1.5: their mean is 1.25 in units of 0.5, whatever the corrections are."""
    state = {}
    for c in (0.0, 1.0, -3.0):
        made = net()
        optimizer = torch.optim.SGD(made.parameters(), lr=0.5, momentum=0.5)
        scaffold = Scaffold(made, optimizer, received(w=c, u=c), state)

        steps(made, optimizer, 2)
        scaffold.finish()

        assert numbers(state["scaffold_c_i"]) == {"w": 1.25, "u": 1.25}


def test_what_does_not_train_has_no_control_variate_and_one_that_rests_keeps_its_own():
    frozen, resting = net(), net()
    frozen.u.requires_grad_(False)
    states = keeps(w=0.0, u=4.0), keeps(w=0.0, u=4.0)
    for made, state in zip((frozen, resting), states, strict=True):
        optimizer = torch.optim.SGD([made.w], lr=0.5)
        scaffold = Scaffold(made, optimizer, received(w=0.0, u=9.0), state)

        steps(made, optimizer, 1)

        assert numbers(scaffold.finish()[SCAFFOLD_CTRL_DIFF]) == {"w": 1.0}
        assert numbers(state["scaffold_c_i"]) == {"w": 1.0, "u": 4.0}
        assert made.u.item() == 0.0


def test_control_variates_may_be_numpys():
    made, state = net(), {}
    optimizer = torch.optim.SGD([made.w], lr=0.5)
    model = FLModel(meta={SCAFFOLD_CTRL_GLOBAL: {"w": np.array([3.0])}})
    scaffold = Scaffold(made, optimizer, model, state)

    steps(made, optimizer, 1)
    scaffold.finish()

    assert made.w.item() == 5.0
    assert state["scaffold_c_i"]["w"].dtype is torch.float32


def test_after_the_end_no_step_is_corrected():
    made = net()
    optimizer = torch.optim.SGD([made.w], lr=1.0)
    scaffold = Scaffold(made, optimizer, received(w=3.0), {})
    steps(made, optimizer, 1)
    scaffold.finish()

    steps(made, optimizer, 1)

    assert made.w.item() == 7 - 4 - 1


def test_a_mistake_is_an_error_that_says_what_is_missing():
    made = net()
    optimizer = torch.optim.SGD(made.parameters(), lr=1.0)

    with pytest.raises(ValueError, match=r"no meta\['scaffold_c_global'\].*set the job's aggregator to Scaffold"):
        Scaffold(made, optimizer, FLModel(), {})
    with pytest.raises(ValueError, match=r"has none of the net's parameters: \['module.w'\]"):
        Scaffold(made, optimizer, received(**{"module.w": 0.0}), {})
    with pytest.raises(ValueError, match=r"'w' is \[\] in the control variate and \[1\] in the net"):
        Scaffold(made, optimizer, FLModel(meta={SCAFFOLD_CTRL_GLOBAL: {"w": torch.tensor(1.0)}}), {})
    with pytest.raises(ValueError, match="the optimizer has made no step"):
        Scaffold(made, optimizer, received(w=0.0), {}).finish()


def test_nvflares_helper_makes_the_same_steps_and_controls(monkeypatch):
    state, own = {}, {}
    monkeypatch.setattr(pt_scaffold.client, "state", state)
    theirs, ours = net(), net()
    helper = PTScaffoldHelper()
    helper.init(model=theirs)
    for c in (0.0, 0.3, -0.7):
        model = received(w=c, u=-c)
        helper.load_global_controls(weights=model.meta[SCAFFOLD_CTRL_GLOBAL])
        c_global, c_local = helper.get_params()
        before, optimizer = net(theirs.w.item(), theirs.u.item()), torch.optim.SGD(theirs.parameters(), lr=0.1)
        for _ in range(3):
            steps(theirs, optimizer, 1, gradient=0.9)
            lr = get_lr_values(optimizer)[0]
            helper.model_update(theirs, curr_lr=lr, c_global_para=c_global, c_local_para=c_local)
        helper.terms_update(theirs, lr, c_global, c_local, before)
        optimizer = torch.optim.SGD(ours.parameters(), lr=0.1)
        scaffold = Scaffold(ours, optimizer, model, own)
        steps(ours, optimizer, 3, gradient=0.9)
        change = scaffold.finish()[SCAFFOLD_CTRL_DIFF]

        assert numbers(dict(theirs.named_parameters())) == numbers(dict(ours.named_parameters()))
        assert numbers(helper.get_delta_controls()) == pytest.approx(numbers(change))
    assert numbers(state["scaffold_c_i"]) == pytest.approx(numbers(own["scaffold_c_i"]))


def test_nvflares_helper_says_what_was_not_called(monkeypatch):
    monkeypatch.setattr(pt_scaffold.client, "state", {})
    helper, made = PTScaffoldHelper(), net()
    helper.init(made)
    helper.load_global_controls({"w": torch.zeros(1)})
    controls = helper.get_params()

    with pytest.raises(RuntimeError, match=r"no model_update\(\) since get_params\(\)"):
        helper.terms_update(made, 0.1, *controls, net())
    with pytest.raises(ValueError, match=r"no terms_update\(\) in this round"):
        helper.get_delta_controls()


SCRIPT = """
    import torch
    import fedsag_cli.client as flare
    from fedsag_cli.client.scaffold import Scaffold
    from net import Net

    flare.init()
    net, drift = Net(), int(flare.get_site_name()[-1])
    while flare.is_running():
        model = flare.receive()
        net.load_state_dict(model.params)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        scaffold = Scaffold(net, optimizer, model)
        for _ in range(5):
            optimizer.zero_grad()
            (net(torch.randn(8, 4)) - drift).square().mean().backward()
            optimizer.step()
        meta = {"NUM_STEPS_CURRENT_ROUND": 5 * drift, **scaffold.finish()}
        flare.send(flare.FLModel(params=net.state_dict(), metrics={"mean": float(net.bias.mean())}, meta=meta))
"""


@pytest.mark.slow
@pytest.mark.parametrize("launch_once", [True, False])
def test_a_killed_run_goes_on_with_the_control_variates_of_server_and_sites(tmp_path, launch_once):
    scaffold = {"aggregator": {"path": "Scaffold"}}
    rounds = 30 if launch_once else 6
    made = torch_job(
        tmp_path / "job",
        SCRIPT,
        components=scaffold,
        executor={"launch_once": launch_once},
        num_rounds=rounds,
        num_clients=2,
    )
    whole = run(made, "-n", 3, "-t", 1, "--seed", 3, workspace=tmp_path / "whole")

    with Running(made, "-n", 3, "-t", 2, "--seed", 3) as running:
        running.wait_until_told("RoundFinished", 2)
        running.process.kill()
        assert running.outcome().left_alive == []
    resumed = run(made, "--resume")

    assert resumed.code == 0, f"{resumed}\n{resumed.log('site-1')}"
    assert resumed.report["resumed_at"][0] >= 2
    assert resumed.report["digest"] == whole.report["digest"]
    assert whole.report["failures"] == {}
