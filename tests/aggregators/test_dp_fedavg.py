"""DP-FedAvg by hand-computed numbers."""

import math

import numpy as np
import pytest
import torch
from fakes import update

from fedsag_cli.accountants import Accountant
from fedsag_cli.accountants.gaussian import epsilon_of
from fedsag_cli.aggregators.dp_fedavg import DPFedAvg
from fedsag_cli.errors import JobError, TensorError
from fedsag_cli.events import PrivacySpent
from fedsag_cli.model import Cohort, FLModel, ParamsType, Reply, Stateful
from fedsag_cli.testing import FakeClients, FakePersistor
from fedsag_cli.workflows.run import Run
from fedsag_cli.workflows.scatter_and_gather import ScatterAndGather

pytestmark = pytest.mark.usefixtures("one_thread")
MODEL = FLModel(params={"w": torch.tensor([1.0, 2.0]), "b": np.array([4.0]), "count": torch.tensor(7)})


def cohort(*sites, seed=0):
    return Cohort(sites=sites, num_clients=9, round_num=0, rng=np.random.default_rng(seed))


def merged(aggregator, model=MODEL, asked=None, seed=0, **sent):
    aggregator.begin(model, cohort(*(asked or sent), seed=seed))
    for site, each in sent.items():
        aggregator.accept(Reply(site=site, model=each))
    return aggregator.aggregate()


def test_each_update_is_clipped_as_a_whole_and_all_weigh_the_same():
    """|(3, 0, 4)| = 5 becomes (0.6, 0, 0.8); (0, 0.5, 0) stays; the mean of both."""
    found = merged(
        DPFedAvg(clip_norm=1.0, noise_multiplier=0),
        a=update(1000, kind="DIFF", w=torch.tensor([3.0, 0.0]), b=np.array([4.0])),
        b=update(1, kind="DIFF", w=torch.tensor([0.0, 0.5]), b=np.array([0.0])),
    )

    assert found.params_type is ParamsType.DIFF
    assert found.params["w"].tolist() == pytest.approx([0.3, 0.25])
    assert found.params["b"].tolist() == pytest.approx([0.4])
    assert found.meta == {"clipped": 1}


def test_a_whole_model_counts_by_its_difference():
    found = merged(DPFedAvg(clip_norm=1.0, noise_multiplier=0), a=update(w=torch.tensor([4.0, 2.0]), b=np.array([8.0])))

    assert found.params["w"].tolist() == pytest.approx([0.6, 0.0])
    assert found.params["b"].tolist() == pytest.approx([0.8])


def test_a_client_that_failed_counts_as_one_that_changes_nothing():
    """One of four answered: a quarter of its update."""
    found = merged(
        DPFedAvg(clip_norm=9.0, noise_multiplier=0),
        asked=["a", "b", "c", "d"],
        a=update(kind="DIFF", b=np.array([4.0])),
    )

    assert found.params["b"].tolist() == [1.0]


def test_integers_keep_their_values():
    found = merged(DPFedAvg(1.0, 0), a=update(kind="DIFF", b=np.array([0.1]), count=torch.tensor(5)))

    assert set(found.params) == {"w", "b"}


@pytest.mark.parametrize("sent", [{}, {"a": update(kind="DIFF", w=torch.zeros(200_000))}])
def test_the_noise_is_that_of_the_sum_divided_by_the_clients_asked_whoever_answered(sent):
    """z S / m = 3 * 2 / 4; the sample deviation of 200,000 numbers is off by more than 0.8 % once in a million."""
    model = FLModel(params={"w": torch.zeros(200_000)})

    found = merged(DPFedAvg(clip_norm=2.0, noise_multiplier=3.0), model, asked=["a", "b", "c", "d"], **sent)

    noise = found.params["w"].numpy()
    assert noise.std() == pytest.approx(1.5, rel=0.008)
    assert abs(noise.mean()) < 5 * 1.5 / math.sqrt(200_000)


def test_no_client_can_change_the_sum_by_more_than_the_clip_norm():
    """Whatever it sends, and whatever number of steps it claims."""
    huge = update(1e9, kind="DIFF", w=torch.tensor([1e20, -1e20]), b=np.array([1e20]))

    found = merged(DPFedAvg(clip_norm=1.0, noise_multiplier=0), a=huge).params

    assert math.sqrt(float(found["w"].double().square().sum()) + float(found["b"][0]) ** 2) <= 1 + 1e-6


def test_an_update_without_a_norm_is_refused_and_changes_nothing():
    aggregator = DPFedAvg(clip_norm=1.0, noise_multiplier=0)
    aggregator.begin(MODEL, cohort("a"))

    with pytest.raises(TensorError, match="NaN or infinity"):
        aggregator.accept(Reply(site="a", model=update(kind="DIFF", w=torch.tensor([torch.nan, 0.0]))))

    assert aggregator.aggregate().params["w"].tolist() == [0.0, 0.0]


def test_a_client_has_one_update_in_a_round():
    """Two would change the sum by twice the clip norm."""
    aggregator = DPFedAvg(clip_norm=1.0, noise_multiplier=0)
    aggregator.begin(MODEL, cohort("a"))
    aggregator.accept(Reply(site="a", model=update(kind="DIFF", b=np.array([0.5]))))

    with pytest.raises(TensorError, match="a has sent an update in this round"):
        aggregator.accept(Reply(site="a", model=update(kind="DIFF", b=np.array([0.5]))))

    assert aggregator.aggregate().params["b"].tolist() == [0.5]


def test_a_first_model_without_params_is_an_error():
    with pytest.raises(JobError, match="needs a first model"):
        DPFedAvg(1.0, 1.0).begin(FLModel(), cohort("a"))


def test_params_keep_their_dtypes():
    model = FLModel(params={"half": torch.ones(2, dtype=torch.bfloat16), "scalar": np.float32(2)})

    found = merged(DPFedAvg(1.0, 1.0), model, a=update(kind="DIFF", half=torch.ones(2, dtype=torch.bfloat16))).params

    assert found["half"].dtype is torch.bfloat16
    assert isinstance(found["scalar"], np.float32)


def rounds_of(aggregator, seed=5, **arguments):
    """The last model, and what each round told of privacy. Four clients add 1 to each number."""
    told = []
    clients = FakeClients(**{name: lambda model: FLModel(params={"w": model.params["w"] + 1}) for name in "abcd"})
    run = Run(emit=told.append, seed=seed, accountants=[aggregator])
    ScatterAndGather(aggregator, FakePersistor(w=np.zeros(3)), **arguments).run(clients, run)
    return run.model.params["w"].tolist(), [event for event in told if isinstance(event, PrivacySpent)]


def test_each_round_is_counted_with_its_draw():
    _, spent = rounds_of(DPFedAvg(clip_norm=1.0, noise_multiplier=2.0, delta=1e-4), num_rounds=3, num_clients=1)

    assert [event.epsilon for event in spent] == pytest.approx([epsilon_of({(1, 4): n}, 2.0, 1e-4) for n in (1, 2, 3)])
    assert spent[0].delta == 1e-4
    assert spent[0].mechanism == "for the data of one client, by DPFedAvg, 1 of 4 clients drawn in each round"


def test_a_sampler_that_is_not_known_to_draw_at_random_gains_nothing():
    class First:
        def draw(self, takers, count, history, rng):
            return takers[:count]

    _, spent = rounds_of(DPFedAvg(1.0, 2.0), num_rounds=1, num_clients=1, sampler=First())

    assert spent[0].epsilon == pytest.approx(epsilon_of({(1, 1): 1}, 2.0, 1e-5))


def test_the_noise_depends_on_the_seed_and_the_round():
    def model_after(num_rounds, seed):
        return rounds_of(DPFedAvg(1.0, 1.0), num_rounds=num_rounds, seed=seed)[0]

    first, second = model_after(1, seed=5), model_after(2, seed=5)

    assert model_after(1, seed=5) == first
    assert model_after(1, seed=6) != first
    assert np.subtract(second, first).tolist() != pytest.approx(first)


def test_a_resumed_account_goes_on():
    first, second = DPFedAvg(1.0, 2.0), DPFedAvg(1.0, 2.0)
    first.spend(1, 4)
    first.spend(4, 4)

    second.restore(first.state())

    assert second.spend(1, 4) == first.spend(1, 4)
    assert isinstance(first, Accountant)
    assert isinstance(first, Stateful)
