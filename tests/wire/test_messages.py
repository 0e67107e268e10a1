"""Models and messages: what a script may give, and what survives the socket."""

import msgspec
import pytest

from fedsag_cli.errors import TensorError
from fedsag_cli.model import FLModel, ParamsType
from fedsag_cli.plan import ClientConfig, FilterSpec
from fedsag_cli.wire.messages import Answer, Assignment, Hello, LogValues, ModelFacts, Ready, ToServer, Usage, Welcome


def test_params_without_a_type_are_the_whole_model():
    assert FLModel(params={}).params_type is ParamsType.FULL
    assert FLModel(metrics={}).params_type is None


@pytest.mark.parametrize("kind", ["DIFF", ParamsType.DIFF])
def test_a_type_may_be_given_by_its_word(kind):
    assert FLModel(params_type=kind, params={}).params_type is ParamsType.DIFF


def test_a_type_without_params_is_an_error():
    with pytest.raises(ValueError, match="params must be given when params_type is DIFF"):
        FLModel(params_type="DIFF")


def test_an_unknown_type_is_an_error():
    with pytest.raises(ValueError, match="HALF"):
        FLModel(params_type="HALF", params={})


@pytest.mark.parametrize("name", ["metrics", "meta"])
@pytest.mark.parametrize("value", [[1], "x", 5])
def test_metrics_and_meta_are_dicts(name, value):
    with pytest.raises(TypeError, match=f"{name} must be a dict"):
        FLModel(**{name: value})


@pytest.mark.parametrize("name", ["start_round", "current_round", "total_rounds"])
@pytest.mark.parametrize("value", [-1, 1.0, "1"])
def test_a_round_is_a_whole_number_from_0_on(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a whole number"):
        FLModel(**{name: value})


def test_meta_of_none_is_an_empty_one_and_each_model_has_its_own():
    assert FLModel(meta=None).meta == {}
    assert FLModel().meta is not FLModel().meta


def test_a_script_may_assign_to_a_model():
    model = FLModel()
    model.params = {"w": 1}
    model.metrics = {"accuracy": 1}

    assert model.params == {"w": 1}


@pytest.mark.parametrize(("meta", "steps"), [({}, 1.0), ({"NUM_STEPS_CURRENT_ROUND": 0}, 0.0)])
def test_the_steps_are_one_where_meta_does_not_say(meta, steps):
    assert FLModel(meta=meta).num_steps == steps


@pytest.mark.parametrize("steps", [-1, float("nan"), float("inf"), "many", None, [1]])
def test_nonsense_for_steps_is_an_error_naming_it(steps):
    with pytest.raises(TensorError, match="NUM_STEPS_CURRENT_ROUND"):
        _ = FLModel(meta={"NUM_STEPS_CURRENT_ROUND": steps}).num_steps


def test_a_model_at_another_round_is_another_one_with_the_same_params():
    params = {"w": 1}
    model = FLModel(params=params, current_round=0)
    later = model.at_round(3, 5)

    assert (later.current_round, later.total_rounds, model.current_round) == (3, 5, 0)
    assert later.params is params


def test_a_summary_has_no_tensors():
    summary = FLModel(params={"w": [1, 2]}, metrics={"a": 1}, current_round=2).summary()

    assert (summary["params"], summary["params_type"], summary["metrics"]) == (1, "FULL", {"a": 1})
    assert summary["current_round"] == 2


FACTS = ModelFacts(
    params_type=ParamsType.DIFF,
    metrics={"accuracy": 0.1},
    start_round=1,
    current_round=2,
    total_rounds=3,
    meta={"x": [1, "é", None, {"y": 0.5}]},
)


@pytest.mark.parametrize(
    "message",
    [
        Hello(site="a", token="b"),
        Welcome(
            job_id="j",
            seed=1 << 60,
            scratch="/s",
            config=ClientConfig(
                tasks=("train", "*"),
                transfer_type=ParamsType.DIFF,
                launch_once=False,
                task_data_filters=[FilterSpec(tasks=["train"], path="X", args={"a": [1]})],
            ),
        ),
        Ready(),
        Assignment(task_id=1, task_name="train", model=FACTS, tell_usage=True),
        Answer(task_id=1, model=FACTS, usage=Usage(private=1, gpu=2, gpu_free=3), seeded_itself=True),
        LogValues(kind="text", values={"notes/a.txt": "é"}, step=4),
    ],
    ids=lambda message: type(message).__name__,
)
def test_every_message_comes_back_from_its_bytes(message):
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=type(message)) == message


@pytest.mark.parametrize(("kind", "value"), [("metric", "one"), ("text", 1.0), ("param", 0.5)])
def test_what_is_logged_is_of_its_kind(kind, value):
    raw = msgspec.msgpack.encode({"type": "LogValues", "kind": kind, "values": {"x": value}})

    with pytest.raises(msgspec.ValidationError, match="of another type"):
        msgspec.msgpack.decode(raw, type=ToServer)


def test_what_a_server_hears_is_told_apart():
    for message in (Ready(), Answer(task_id=1, model=FACTS), LogValues(kind="metric", values={"loss": 0.5})):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=ToServer) == message


def test_a_models_facts_and_its_params_make_the_model_again():
    model = FLModel(params_type="DIFF", params={"w": 1}, metrics={"a": 0.5}, current_round=2, meta={"x": 1})

    assert ModelFacts.of(model).with_params(model.params) == model


def test_without_params_a_model_has_no_type():
    assert FACTS.with_params(None).params_type is None


def test_a_models_meta_is_its_own():
    model = FACTS.with_params({})
    model.meta["mine"] = 1

    assert "mine" not in FACTS.meta
