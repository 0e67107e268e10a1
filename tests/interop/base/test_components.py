"""Users' filters and aggregators on NVFLARE's base classes, given models as a run gives them."""

import random

import numpy as np
import pytest
import torch
from fakes import update

from fedsag_cli.filters import Chain, made_by
from fedsag_cli.interop.base.components import Assembler, ContentBlockedException, DXOFilter, Filter, ModelAggregator
from fedsag_cli.interop.base.exchange import DXO, DataKind, make_reply
from fedsag_cli.model import STATISTICS, Cohort, FLModel, ParamsType, Reply
from fedsag_cli.server.memory import Memory
from fedsag_cli.testing import exchange


class Doubles(DXOFilter):
    """Doubles values in place, and tells where it is."""

    def __init__(self, kinds=None):
        super().__init__([DataKind.WEIGHTS, DataKind.WEIGHT_DIFF, DataKind.METRICS], kinds)
        self.seen = []

    def process_dxo(self, dxo, shareable, fl_ctx):
        self.seen.append(
            (dxo.data_kind, fl_ctx.get_identity_name(), fl_ctx.get_peer_context().get_identity_name(),
             fl_ctx.get_prop("__task_name__"), shareable.get_header("current_round"))
        )  # fmt: skip
        for name in dxo.data:
            dxo.data[name] *= 2


class Draws(Filter):
    def process(self, shareable, fl_ctx):
        drawn = [random.random(), float(np.random.rand()), float(torch.rand(1))]
        shareable["DXO"]["data"] = {"drawn": np.array(drawn)}
        return shareable


class Answers(Filter):
    """Returns what it was made with."""

    def __init__(self, made):
        super().__init__()
        self._made = made

    def process(self, shareable, fl_ctx):
        return self._made


def test_a_filter_may_change_the_data_in_place_and_the_model_stays_as_it_was():
    model = update(1, w=torch.ones(2), b=np.ones(1))

    made = made_by(Doubles(), model, exchange())

    assert made.params["w"].tolist() == [2.0, 2.0]
    assert isinstance(made.params["w"], torch.Tensor)
    assert isinstance(made.params["b"], np.ndarray)
    assert (model.params["w"].tolist(), model.params["b"].tolist()) == ([1.0, 1.0], [1.0])
    assert made.meta == model.meta


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (FLModel(params={"w": np.ones(1)}), DataKind.WEIGHTS),
        (FLModel(params={"w": np.ones(1)}, params_type=ParamsType.DIFF), DataKind.WEIGHT_DIFF),
        (FLModel(metrics={"loss": 1.0}), DataKind.METRICS),
    ],
)
def test_each_kind_of_model_is_a_dxo_of_that_kind_and_only_those_asked_for_are_filtered(model, kind):
    link, other = Doubles([kind]), Doubles([each for each in Doubles().data_kinds if each != kind])

    made, same = made_by(link, model, exchange()), made_by(other, model, exchange())

    assert [seen[0] for seen in link.seen] == [kind]
    assert other.seen == []
    assert (made.params_type, made.params or made.metrics) == (
        model.params_type,
        {next(iter(made.params or made.metrics)): 2.0},
    )
    assert (same.params, same.metrics) == (model.params, model.metrics)


def test_metrics_beside_params_stay_and_a_filter_may_change_them_in_the_meta():
    class Hides(DXOFilter):
        def process_dxo(self, dxo, shareable, fl_ctx):
            dxo.set_meta_prop("initial_metrics", {"loss": 0.0})
            return dxo

    model = FLModel(params={"w": np.ones(1)}, metrics={"loss": 1.0})

    assert made_by(Doubles(), model, exchange()).metrics == {"loss": 1.0}
    assert made_by(Hides(), model, exchange()).metrics == {"loss": 0.0}


def test_in_a_client_the_other_side_is_the_server_and_in_the_server_it_is_the_client():
    here, there = Doubles(), Doubles()
    here.make_ready("site-1")
    there.make_ready("server")
    model = FLModel(params={"w": np.ones(1)}, current_round=3)

    for link in (here, there):
        made_by(link, model, exchange(site="site-1", task="train"))

    assert here.seen == [(DataKind.WEIGHTS, "site-1", "server", "train", 3)]
    assert there.seen == [(DataKind.WEIGHTS, "server", "site-1", "train", 3)]


def test_a_filter_hears_of_the_start_of_the_run_before_its_first_task():
    class Hears(Doubles):
        def handle_event(self, event_type, fl_ctx):
            self.seen.append((event_type, fl_ctx.get_identity_name()))

    link = Hears()

    Chain([(["*"], link)]).make_ready("site-2")

    assert link.seen == [("_start_run", "site-2")]


def test_random_numbers_of_a_filter_are_its_own_and_a_scripts_go_on_as_without_it():
    def of_the_script():
        return [random.random(), float(np.random.rand()), float(torch.rand(1))]

    def seed():
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)

    model = FLModel(params={"w": np.ones(1)})
    seed()
    alone = of_the_script()
    seed()
    one, same, another = (
        made_by(Draws(), model, exchange(seed=number)).params["drawn"].tolist() for number in (5, 5, 6)
    )

    assert of_the_script() == alone
    assert torch.initial_seed() == 1
    assert one == same
    assert set(one).isdisjoint(another)


@pytest.mark.parametrize(
    ("made", "error", "text"),
    [
        (None, TypeError, "NoneType, not a Shareable"),
        (make_reply("EMPTY_RESULT"), ValueError, "the code EMPTY_RESULT"),
        (make_reply("OK"), ValueError, "no DXO"),
        (DXO(DataKind.COLLECTION, {}).to_shareable(), ValueError, "no DXO of kind"),
    ],
)
def test_what_a_filter_returns_must_be_a_dxo_that_fedsag_sends(made, error, text):
    with pytest.raises(error, match=text):
        made_by(Answers(made), FLModel(params={"w": np.ones(1)}), exchange())


def test_process_dxo_returns_a_dxo_or_none():
    class Wrong(DXOFilter):
        def process_dxo(self, dxo, shareable, fl_ctx):
            return dxo.data

    with pytest.raises(TypeError, match=r"Wrong.process_dxo\(\) returned dict, not a DXO"):
        made_by(Wrong(), FLModel(params={"w": np.ones(1)}), exchange())


def test_an_exception_of_a_filter_fails_the_task():
    class Blocks(Filter):
        def process(self, shareable, fl_ctx):
            raise ContentBlockedException("too small")

    with pytest.raises(ContentBlockedException, match="too small"):
        made_by(Blocks(), FLModel(params={"w": np.ones(1)}), exchange())


@pytest.mark.parametrize(
    ("kinds", "text"),
    [
        (([DataKind.WEIGHTS], [DataKind.METRICS]), "supports only"),
        (("WEIGHTS", None), "must be a list"),
        (([DataKind.STATISTICS], None), "fedsag sends"),
    ],
)
def test_a_filter_that_would_never_filter_is_an_error_when_it_is_built(kinds, text):
    with pytest.raises(ValueError, match=text):
        DXOFilter(*kinds)


def test_statistics_do_not_pass_a_filter_that_cannot_see_them():
    with pytest.raises(ValueError, match="StatisticsPrivacyFilter"):
        made_by(Doubles(), FLModel(meta={STATISTICS: {"count": {}}}), exchange(sent=FLModel()))


def test_a_task_without_a_model_passes():
    link = Doubles()

    made = made_by(link, FLModel(meta={"submit_model_name": "best_model"}), exchange())

    assert (made.params, made.metrics, link.seen) == (None, None, [])
    assert made.meta == {"submit_model_name": "best_model"}


class Sums(ModelAggregator):
    """Without a call of the base's __init__, and with attributes that only `reset_stats` makes."""

    def __init__(self, calls):
        self.calls = calls

    def reset_stats(self):
        self.calls.append("reset")
        self.total = 0.0

    def accept_model(self, model):
        self.calls.append(model.meta["client_name"])
        self.total = self.total + model.params["w"]

    def aggregate_model(self):
        self.info("sums")
        return FLModel(params={"w": self.total})


def test_an_aggregator_is_reset_once_before_each_round():
    calls = []
    sums = Sums(calls)
    sums.make_ready("server")

    made = []
    for _ in range(2):
        for site in ("a", "b"):
            sums.accept(Reply(site=site, model=FLModel(params={"w": torch.ones(2)})))
        made.append(sums.aggregate().params["w"].tolist())

    assert calls == ["reset", "a", "b", "reset", "a", "b", "reset"]
    assert made == [[2.0, 2.0], [2.0, 2.0]]


def test_an_aggregator_finds_the_round_in_its_context():
    sums = Sums([])
    sums.make_ready("server")

    sums.begin(
        FLModel(params={}, current_round=4, total_rounds=9), Cohort(sites=[], num_clients=0, round_num=4, rng=None)
    )

    assert (sums.fl_ctx.get_prop("current_round"), sums.fl_ctx.get_prop("num_rounds")) == (4, 9)


class Means(ModelAggregator):
    def reset_stats(self):
        self.models = []

    def accept_model(self, model):
        self.models.append(model.params["w"])

    def aggregate_model(self):
        return FLModel(params={"w": sum(self.models) / len(self.models)})


class Stacks(Assembler):
    def get_model_params(self, dxo):
        return dxo.data["w"], dxo.data["count"]

    def assemble(self, data, fl_ctx):
        assert fl_ctx.get_prop("current_round") == 4
        return DXO("WEIGHTS", {"all": np.stack([w for w, _ in data.values()]), "sites": " ".join(data)})

    def reset(self):
        """Without that of the base class."""


def stacks():
    made = Stacks(data_kind="WEIGHTS")
    made.make_ready("server")
    made.begin(FLModel(params={}, current_round=4), Cohort(sites=[], num_clients=0, round_num=4, rng=None))
    return made


def test_an_assembler_merges_what_it_took_of_each_clients_model_and_begins_again():
    aggregator = stacks()
    for round_sites in (["a", "b"], ["c"]):
        for site in round_sites:
            aggregator.accept(Reply(site=site, model=FLModel(params={"w": torch.ones(2)})))
        merged = aggregator.aggregate()
        assert merged.params["all"].shape == (len(round_sites), 2)
        assert merged.params["sites"] == " ".join(round_sites)


def test_a_param_that_a_script_sent_as_none_is_none_for_the_assembler():
    aggregator = stacks()
    aggregator.accept(Reply(site="a", model=FLModel(params={"w": np.ones(2)})))

    assert aggregator.collection["a"][1] is None


def test_what_an_assembler_cannot_use_or_send_is_an_error():
    aggregator = stacks()
    with pytest.raises(ValueError, match="a sent another kind of DXO than Stacks's data_kind"):
        aggregator.accept(Reply(site="a", model=FLModel(params={"w": np.ones(2)}, params_type=ParamsType.DIFF)))
    aggregator.assemble = lambda data, fl_ctx: None
    with pytest.raises(TypeError, match=r"Stacks.assemble\(\) returned NoneType, not a DXO or a dict"):
        aggregator.aggregate()


def test_a_resumed_run_would_lose_only_what_outlives_a_round():
    means, counts = Means(), Doubles()
    means.make_ready("server")
    counts.make_ready("server")
    memory = Memory({"aggregator": means, "filter 1": counts})
    model = FLModel(params={"w": np.ones(1)})

    means.begin(model, Cohort(sites=["a"], num_clients=1, round_num=0, rng=None))
    means.accept(Reply(site="a", model=made_by(counts, model, exchange())))
    means.aggregate()

    assert memory.changed() == [f"filter 1 ({__name__}.Doubles): seen"]
