"""The public home of models, tasks and replies."""

import subprocess
import sys

import pytest

from fedsag_cli import messages
from fedsag_cli import model as public
from fedsag_cli.errors import TensorError
from fedsag_cli.model import FLModel, ParamsType


def test_what_an_author_of_parts_needs_is_here():
    from fedsag_cli.model import NUM_STEPS, FLModel, Params, ParamsType, Reply, Task

    params: Params = {"w": 1.0}
    task = Task(name="train", model=FLModel(params=params))
    reply = Reply(site="site-1", model=FLModel(params={"w": 2.0}, meta={NUM_STEPS: 3}))

    assert (task.model.params_type, reply.model.num_steps) == (ParamsType.FULL, 3.0)


def test_a_script_and_an_older_job_find_the_same_classes_where_they_look_for_them():
    import fedsag_cli.client as flare

    assert messages.FLModel is flare.FLModel is public.FLModel
    assert messages.ParamsType is flare.ParamsType is public.ParamsType
    assert (messages.Task, messages.Reply) == (public.Task, public.Reply)


def test_it_loads_neither_torch_nor_numpy():
    ask = "import sys, fedsag_cli.model; print({'torch', 'numpy'} & set(sys.modules))"

    assert subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True).stdout == "set()\n"


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
