"""Attacks by hand-computed numbers: what an attacking site sends, and that the others send what they trained."""

import numpy as np
import pytest
import torch
from fakes import update

from fedsag_cli.aggregators.coordinate_median import CoordinateMedian
from fedsag_cli.aggregators.fedavg import FedAvg
from fedsag_cli.aggregators.krum import Krum
from fedsag_cli.aggregators.trimmed_mean import TrimmedMean
from fedsag_cli.filters.attacks import NoiseAttack, ScalingAttack, SignFlipAttack
from fedsag_cli.model import FLModel
from fedsag_cli.testing import FakeClients, FakePersistor, exchange
from fedsag_cli.workflows.run import Run
from fedsag_cli.workflows.scatter_and_gather import ScatterAndGather

SENT = FLModel(params={"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(7)})
FULL = update(5, w=torch.tensor([2.0, 4.0]), n=torch.tensor(9))
DIFF = update(5, kind="DIFF", w=torch.tensor([1.0, 2.0]), n=torch.tensor(2))


@pytest.mark.parametrize(
    ("attack", "change"),
    [(SignFlipAttack(["site-1"]), [-1.0, -2.0]), (SignFlipAttack(["site-1"], 3), [-3.0, -6.0]),
     (ScalingAttack(["site-1"], 10), [10.0, 20.0])],
)  # fmt: skip
def test_the_change_is_what_the_attack_makes_of_it_and_whole_numbers_are_not(attack, change):
    of_diff = attack.process(DIFF, exchange(sent=SENT))
    of_full = attack.process(FULL, exchange(sent=SENT))

    assert (of_diff.params["w"].tolist(), of_diff.params["n"].item()) == (change, 2)
    assert (of_full.params["w"].tolist(), of_full.params["n"].item()) == ([1 + change[0], 2 + change[1]], 9)
    assert (of_diff.params_type, of_full.params_type) == (DIFF.params_type, FULL.params_type)
    assert of_diff.num_steps == 5


@pytest.mark.parametrize("attack", [SignFlipAttack(["site-1"]), ScalingAttack(["site-1"]), NoiseAttack(["site-1"])])
def test_other_sites_send_what_they_trained(attack):
    assert attack.process(DIFF, exchange("site-2", sent=SENT)) is DIFF


def test_noise_has_its_standard_deviation_and_is_of_the_sites_own_stream():
    large = update(kind="DIFF", w=torch.full((10_000,), 5.0))

    noise = NoiseAttack(["a", "b"], sigma=0.5)
    one, again = (noise.process(large, exchange("a", sent=SENT, seed=1)).params["w"] for _ in range(2))
    other = noise.process(large, exchange("b", sent=SENT, seed=2)).params["w"]

    assert one.dtype == torch.float32
    assert one.tolist() == again.tolist() != other.tolist()
    assert one.mean().item() == pytest.approx(5.0, abs=0.02)
    assert one.std().item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("value", [np.array([1.0], np.float16), np.float32(1.0), 1.0, torch.tensor(1.0).bfloat16()])
def test_params_of_any_library_can_be_attacked(value):
    for attack in (SignFlipAttack(["site-1"]), NoiseAttack(["site-1"], sigma=0.0)):
        found = attack.process(update(w=value), exchange(sent=FLModel(params={"w": value}))).params["w"]

        assert np.sum(torch.as_tensor(found).tolist()) == 1.0
        assert getattr(found, "dtype", None) == getattr(value, "dtype", None)


def test_the_received_model_and_the_update_are_not_changed():
    for attack in (SignFlipAttack(["site-1"]), NoiseAttack(["site-1"])):
        attack.process(FULL, exchange(sent=SENT))

    assert (FULL.params["w"].tolist(), SENT.params["w"].tolist()) == ([2.0, 4.0], [1.0, 2.0])


@pytest.mark.parametrize("attack", [SignFlipAttack(["e"], 100), ScalingAttack(["e"], 100), NoiseAttack(["e"], 100)])
def test_one_attacker_of_five_moves_the_mean_far_away_and_no_robust_aggregate(attack):
    """Four sites move w by 0.9 … 1.2 in each of 3 rounds."""

    def script(site, step):
        def train(model):
            changed = FLModel(params={"w": model.params["w"] + step})
            return attack.process(changed, exchange(site, sent=model, round_num=model.current_round))

        return train

    def trained(aggregator):
        steps = dict(zip("abcde", (0.9, 1.0, 1.1, 1.2, 1.0), strict=True))
        clients = FakeClients(**{site: script(site, step) for site, step in steps.items()})
        run = Run(emit=lambda event: None)
        ScatterAndGather(aggregator, FakePersistor(w=np.zeros(1)), num_rounds=3).run(clients, run)
        return run.model.params["w"].item()

    assert not -5 < trained(FedAvg()) < 10
    for aggregator in (CoordinateMedian(), TrimmedMean(0.2), Krum(1), Krum(1, num_chosen=3)):
        assert 2.7 <= trained(aggregator) <= 3.6 + 1e-9
