"""The messages between processes: they come back from their bytes as they were."""

import msgspec
import pytest

from fedsag_cli.errors import BadMessage
from fedsag_cli.model import FLModel, ParamsType
from fedsag_cli.plan import ClientConfig, FilterSpec
from fedsag_cli.wire.messages import (
    Answer,
    Assignment,
    Hello,
    LogValues,
    ModelFacts,
    Ready,
    ToServer,
    Usage,
    Welcome,
    parted,
)

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

    with pytest.raises(msgspec.ValidationError, match="have the wrong type"):
        msgspec.msgpack.decode(raw, type=ToServer)


def test_what_a_server_hears_is_told_apart():
    for message in (Ready(), Answer(task_id=1, model=FACTS), LogValues(kind="metric", values={"loss": 0.5})):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=ToServer) == message


@pytest.mark.parametrize(
    ("files", "has_state", "parts"),
    [
        ([], False, (None, None)),
        (["m"], False, ("m", None)),
        (["s"], True, (None, "s")),
        (["m", "s"], True, ("m", "s")),
    ],
)
def test_the_files_of_a_message_are_told_apart(files, has_state, parts):
    assert parted(files, has_state=has_state) == parts


@pytest.mark.parametrize(("files", "has_state"), [(["m", "m"], False), ([], True), (["m", "m", "s"], True)])
def test_other_files_than_a_message_names_are_none_of_ours(files, has_state):
    with pytest.raises(BadMessage, match=f"a message with {len(files)} files"):
        parted(files, has_state=has_state)


def test_a_models_facts_and_its_params_make_the_model_again():
    model = FLModel(params_type="DIFF", params={"w": 1}, metrics={"a": 0.5}, current_round=2, meta={"x": 1})

    assert ModelFacts.of(model).with_params(model.params) == model


def test_without_params_a_model_has_no_type():
    assert FACTS.with_params(None).params_type is None


def test_a_models_meta_is_its_own():
    model = FACTS.with_params({})
    model.meta["mine"] = 1

    assert "mine" not in FACTS.meta
