"""Trees of several sites in one model, read by XGBoost."""

import json

import numpy as np
import pytest

from fedsag_cli.aggregators.xgb_bagging import XGBBaggingAggregator
from fedsag_cli.errors import TensorError
from fedsag_cli.model import Cohort, FLModel, Reply

xgb = pytest.importorskip("xgboost", reason="XGBoost is not installed: pip install 'fedsag[xgboost]'")

SETTINGS = {"objective": "binary:logistic", "base_score": 0.5, "max_depth": 3, "eta": 0.1, "nthread": 1}


def data(seed, rows=200):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 4))
    return x, (x[:, 0] + x[:, 1] ** 2 + rng.normal(scale=0.3, size=rows) > 0.7).astype(int)


def trained(seed, model=None, settings=SETTINGS, rounds=1):
    """The trees that a site adds."""
    x, y = data(seed)
    booster = None if model is None else read(model)
    before = booster.num_boosted_rounds() if booster else 0
    return bytes(xgb.train(settings, xgb.DMatrix(x, label=y), rounds, xgb_model=booster)[before:].save_raw("json"))


def read(model):
    return xgb.Booster(model_file=bytearray(model))


def margins(model, x):
    return read(model).predict(xgb.DMatrix(x), output_margin=True)


def merged(sent, *updates):
    aggregator = XGBBaggingAggregator()
    params = {} if sent is None else {"model_data": sent}
    aggregator.begin(
        FLModel(params=params), Cohort(sites=["a"], num_clients=1, round_num=0, rng=np.random.default_rng(0))
    )
    for number, update in enumerate(updates):
        model = aggregator.check(FLModel(params={"model_data": update}), params)
        aggregator.accept(Reply(site=f"site-{number}", model=model))
    return aggregator.aggregate()


def test_the_model_is_the_sum_of_all_trees():
    """The base score of 0.5 is a margin of 0, so the margins of the sites' trees add up."""
    sites = [trained(seed) for seed in (1, 2, 3)]
    x, _ = data(9)

    found = merged(None, *sites).params["model_data"]

    assert margins(found, x) == pytest.approx(sum(margins(site, x) for site in sites), abs=1e-6)


def test_new_trees_come_after_those_of_the_model():
    first = merged(None, trained(1), trained(2))
    model = first.params["model_data"]

    second = merged(model, trained(1, model), trained(2, model))

    booster = json.loads(second.params["model_data"])["learner"]["gradient_booster"]["model"]
    assert [tree["id"] for tree in booster["trees"]] == [0, 1, 2, 3]
    assert booster["iteration_indptr"] == [0, 1, 2, 3, 4]
    assert booster["trees"][:2] == json.loads(model)["learner"]["gradient_booster"]["model"]["trees"]
    assert read(second.params["model_data"]).num_boosted_rounds() == 4
    assert second.metrics == {"trees_added": 2.0, "trees": 4.0}


def test_one_site_alone_boosts_as_without_a_federation():
    x, y = data(1)
    alone = xgb.train(SETTINGS, xgb.DMatrix(x, label=y), 3)

    model = None
    for _ in range(3):
        model = merged(model, trained(1, model)).params["model_data"]

    assert margins(model, x).tolist() == alone.predict(xgb.DMatrix(x), output_margin=True).tolist()


def test_bagging_is_nearly_as_good_as_the_trees_of_the_pooled_data():
    x_test, y_test = data(9, rows=1000)
    pooled_x, pooled_y = (np.concatenate(parts) for parts in zip(data(1), data(2), strict=True))
    pooled = xgb.train(SETTINGS, xgb.DMatrix(pooled_x, label=pooled_y), 20).predict(xgb.DMatrix(x_test))
    halved = {**SETTINGS, "eta": 0.05}

    model = None
    for _ in range(20):
        model = merged(model, trained(1, model, halved), trained(2, model, halved)).params["model_data"]

    accuracy = ((margins(model, x_test) > 0) == y_test).mean()
    assert accuracy >= ((pooled > 0.5) == y_test).mean() - 0.03


def test_a_site_with_another_base_score_is_refused():
    with pytest.raises(TensorError, match="has base_score = "):
        merged(None, trained(1), trained(2, settings={**SETTINGS, "base_score": 0.3}))


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"w": 1.0}, "params must be 'model_data' alone"),
        ({"model_data": b"no json"}, "is no model file of XGBoost"),
        ({"model_data": b"{}"}, "is no model file of XGBoost"),
        ({"model_data": b"[1]"}, "is no model file of XGBoost"),
        ({"model_data": np.zeros(3)}, "ndarray, not bytes"),
        ({"model_data": b"[" * 100_000}, "is no model file of XGBoost"),
    ],
)
def test_an_update_that_is_no_model_is_refused(params, says):
    with pytest.raises(TensorError, match=says):
        XGBBaggingAggregator().check(FLModel(params=params), {})


def test_a_model_that_lacks_trees_is_refused():
    model = json.loads(trained(1))
    model["learner"]["gradient_booster"]["model"]["gbtree_model_param"]["num_trees"] = "2"

    with pytest.raises(TensorError, match="says it has 2 trees, and has 1"):
        XGBBaggingAggregator().check(FLModel(params={"model_data": json.dumps(model)}), {})


def test_without_answers_the_model_stays():
    assert merged(None).params == {}
