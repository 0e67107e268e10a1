"""The Client API, against a server that says what the test tells it to, over a real socket."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fedsag_cli.client as flare
from fedsag_cli.errors import ChannelClosed, ClientError, TensorError
from fedsag_cli.model import ParamsType
from fedsag_cli.plan import FilterSpec
from fedsag_cli.wire.messages import ADDRESS, PROCESS, RUN, SITE, TOKEN, Answer, LogValues, Ready

pytestmark = pytest.mark.usefixtures("fresh_process")

LIMIT_S = 30
WITH_ARGUMENTS = ("init", "send", "log", "partition", "state")
NEEDING_INIT = [name for name in flare.__all__ if name[0].islower() and name not in WITH_ARGUMENTS]


@pytest.fixture
def server(serving):
    server = serving()
    flare.init()
    return server


def torch():
    return pytest.importorskip("torch")


def arrays(**values):
    return {name: np.asarray(value, dtype=np.float32) for name, value in values.items()}


def test_the_public_surface_is_this():
    assert sorted(flare.__all__) == [
        "APIContext", "AnalyticsDataType", "FLModel", "ParamsType", "Site", "get_config", "get_job_id", "get_site_name",
        "get_task_name", "init", "is_evaluate", "is_running", "is_submit_model", "is_train", "log", "partition",
        "receive", "send", "shutdown", "site", "state", "system_info",
    ]  # fmt: skip


@pytest.mark.parametrize("name", NEEDING_INIT)
def test_before_init_every_function_says_to_call_it_first(name):
    with pytest.raises(ClientError, match=rf"flare\.{name}\(\) was called before flare\.init\(\)") as raised:
        getattr(flare, name)()
    assert raised.value.hint == "call flare.init() first"


@pytest.mark.parametrize(
    ("name", "args"),
    [("send", [flare.FLModel(params={})]), ("log", ["x", 1, flare.AnalyticsDataType.SCALAR]), ("partition", [[1, 2]])],
)
def test_what_takes_arguments_says_before_init_to_call_it_first(name, args):
    with pytest.raises(ClientError, match=rf"flare\.{name}\(\) was called before flare\.init\(\)"):
        getattr(flare, name)(*args)


def test_logging_says_values_to_the_server(server):
    flare.log("loss", np.float32(0.5), flare.AnalyticsDataType.SCALAR, global_step=3, writer="whoever")

    assert server.heard() == (LogValues(kind="metric", values={"loss": 0.5}, step=3), [])


def test_another_rank_may_not_log(server):
    flare.init(rank=1)

    with pytest.raises(ClientError, match="only rank 0"):
        flare.log("loss", 0.5, flare.AnalyticsDataType.SCALAR)


@pytest.mark.parametrize("name", [TOKEN, RUN, SITE, PROCESS])
def test_a_script_of_a_run_that_knows_no_server_fails_and_does_no_local_pass(monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(name, "site-1")

    with pytest.raises(ClientError, match=f"only a part of the variables of a run: {ADDRESS} is missing"):
        flare.init()
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_gone_is_said_at_init(tmp_path, monkeypatch):
    monkeypatch.setenv(ADDRESS, str(tmp_path / "nobody"))

    with pytest.raises(ChannelClosed, match="no server listens"):
        flare.init()


def test_a_wrong_token_gets_no_answer(serving, monkeypatch):
    serving()
    monkeypatch.setenv(TOKEN, "guessed")

    with pytest.raises(ChannelClosed):
        flare.init()


def test_init_again_gives_the_same_context_and_a_warning(server, caplog):
    assert flare.init() is flare.init(rank="0")
    assert "called before" in caplog.text


def test_a_round_from_receive_to_send(server):
    server.give(arrays(w=[1, 2]), round_num=3, meta={"lr": 0.1})

    assert flare.is_running()
    model = flare.receive()
    assert (model.current_round, model.total_rounds, model.params_type) == (3, 5, ParamsType.FULL)
    assert model.meta == {"lr": 0.1, "job_id": "job-7", "site_name": "site-4"}
    assert model.params["w"].tolist() == [1, 2]
    flare.send(
        flare.FLModel(
            params={"w": model.params["w"] + 1},
            metrics={"accuracy": np.float32(0.5), "loss": 2},
            meta={"NUM_STEPS_CURRENT_ROUND": np.int64(40), "note": "x"},
        )
    )

    answer = server.answer()
    assert isinstance(server.last, Answer)
    assert answer.params["w"].tolist() == [2, 3]
    assert answer.metrics == {"accuracy": 0.5, "loss": 2.0}
    assert answer.meta == {"NUM_STEPS_CURRENT_ROUND": 40, "note": "x"}
    assert (answer.current_round, server.last.task_id) == (3, 1)
    assert server.last.usage.private > 0


def test_a_client_says_ready_only_when_it_first_waits(server):
    server.give(arrays(w=[1]))
    flare.get_site_name()
    flare.is_running()

    assert isinstance(server.heard()[0], Ready)


def test_the_run_ends_with_is_running_false_and_receive_none(server):
    server.end()

    assert not flare.is_running()
    assert flare.receive() is None
    assert flare.receive(timeout=0.01) is None
    assert flare.get_task_name() == ""
    flare.send(flare.FLModel(params={}))  # nobody needs it any more: a word in the log
    assert not flare.is_running()


def test_receive_gives_the_same_model_until_it_is_answered(server):
    server.give(arrays(w=[1]))
    server.give(arrays(w=[2]), round_num=1)

    first = flare.receive()
    assert flare.receive() is first
    assert flare.is_running()
    flare.send(flare.FLModel(params=first.params))
    second = flare.receive()

    assert second.current_round == 1
    assert (first.params["w"].tolist(), second.params["w"].tolist()) == ([1], [2])


def test_receive_past_its_timeout_is_none_and_the_task_comes_later(server):
    assert flare.receive(timeout=0.01) is None
    server.give(arrays(w=[1]))

    assert flare.receive(timeout=LIMIT_S).params["w"].tolist() == [1]


@pytest.mark.parametrize("clear_cache", [True, False])
@pytest.mark.parametrize("transfer", ["FULL", "DIFF"])
def test_send_leaves_both_models_alone(serving, transfer, clear_cache):
    server = serving(transfer_type=transfer)
    flare.init()
    server.give(arrays(w=[1, 2]))
    received = flare.receive()
    mine = flare.FLModel(params={"w": received.params["w"] * 3}, metrics={"a": 1}, meta={"b": [1]})

    flare.send(mine, clear_cache=clear_cache)
    server.answer()
    server.end()

    assert received.params["w"].tolist() == [1, 2]
    assert mine.params["w"].tolist() == [3, 6]
    assert (mine.params_type, mine.metrics, mine.meta) == (ParamsType.FULL, {"a": 1}, {"b": [1]})
    received.params["w"] += mine.params["w"]
    assert received.params["w"].tolist() == [4, 8]


def test_diff_is_taken_against_what_came_though_the_script_changed_it(serving):
    server = serving(transfer_type="DIFF")
    flare.init()
    server.give(arrays(w=[1, 2], v=[5]))
    params = flare.receive().params
    params["w"] += 10
    params["w"][0] = 0

    flare.send(flare.FLModel(params=params))

    answer = server.answer()
    assert answer.params_type is ParamsType.DIFF
    assert {name: value.tolist() for name, value in answer.params.items()} == {"w": [-1, 10], "v": [0]}


def test_a_diff_of_the_scripts_own_is_sent_as_it_is(serving):
    server = serving(transfer_type="DIFF")
    flare.init()
    server.give(arrays(w=[1]))
    flare.receive()

    flare.send(flare.FLModel(params=arrays(w=[0.5]), params_type="DIFF"))

    answer = server.answer()
    assert (answer.params_type, answer.params["w"].tolist()) == (ParamsType.DIFF, [0.5])


def test_keys_that_a_diff_has_no_place_for_are_told_to_the_server_unless_a_filter_removes_them(serving):
    """The filter that removed `secret` before the script saw it is no fault of the script."""
    drop = FilterSpec(tasks=["train"], path="ExcludeVars", args={"exclude_vars": ["secret"]})
    own = FilterSpec(tasks=["train"], path="ExcludeVars", args={"exclude_vars": "^own"})
    server = serving(transfer_type="DIFF", task_data_filters=[drop], task_result_filters=[own])
    flare.init()
    server.give(arrays(w=[1], secret=[9]))
    flare.receive()

    flare.send(flare.FLModel(params=arrays(w=[1], secret=[2], own_head=[3], **{"module.w": [4], "v": [5]})))

    assert list(server.answer().params) == ["w"]
    assert server.last.more_keys == ["module.w", "v"]


@pytest.mark.parametrize("transfer", ["FULL", "DIFF"])
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: [1.0, 2.0], "'w' is a list"),
        (lambda: 2**70, "'w' is an integer of more than 64 bits"),
        (lambda: np.array([1, None]), "'w' is a numpy array of dtype object"),
        (lambda: np.array(["a", "b"]), "'w' is a numpy array of dtype <U1"),
        (lambda: torch().ones(2).to_sparse(), "'w' is a torch tensor of dtype torch.float32, layout torch.sparse_coo"),
        (lambda: torch().quantize_per_tensor(torch().ones(2), 0.1, 0, torch().quint8), "dtype torch.quint8"),
        (lambda: torch().ones(2, device="meta"), "device meta"),
        (lambda: torch().ones(2, dtype=torch().complex32), "dtype torch.complex32"),
        (lambda: torch().nn.LazyLinear(2).weight, "'w' is a torch tensor without a shape"),
        (lambda: torch().nested.nested_tensor([torch().ones(1)]), "nested"),
    ],
    ids=["list", "huge", "object", "text", "sparse", "quantised", "meta", "complex32", "lazy", "nested"],
)
@pytest.mark.filterwarnings("ignore")
def test_a_value_that_cannot_be_sent_has_one_error_in_full_and_in_diff(serving, transfer, make, said):
    server = serving(transfer_type=transfer)
    flare.init()
    server.give(arrays(w=[1, 2]))
    flare.receive()

    with pytest.raises(TensorError, match=said):
        flare.send(flare.FLModel(params={"w": make()}))
    flare.send(flare.FLModel(params=arrays(w=[1, 2])))  # nothing was sent, so the task can still be answered
    assert server.answer().params["w"].shape == (2,)


def test_diff_is_against_what_the_sites_filter_let_through(serving):
    drop = FilterSpec(tasks=["train"], path="ExcludeVars", args={"exclude_vars": ["secret"]})
    server = serving(transfer_type="DIFF", task_data_filters=[drop])
    flare.init()
    server.give(arrays(w=[1], secret=[9]))
    params = flare.receive().params

    assert "secret" not in params or not np.any(params["secret"])
    params["w"] += 2
    flare.send(flare.FLModel(params={"w": params["w"]}))
    assert server.answer().params["w"].tolist() == [2]


def test_tied_and_non_contiguous_tensors_arrive_as_they_are(server):
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    shared = torch.arange(6.0)
    server.give({"a": torch.zeros(2)})
    flare.receive()
    net = torch.nn.Linear(2, 3)

    flare.send(
        flare.FLModel(
            params={
                "z": shared.view(2, 3).t(),
                "a": shared,
                "b": shared,
                "part": shared[1:3],
                "odd": shared[::2],
                "weight": net.weight,
                "half": torch.ones(2, dtype=torch.bfloat16),
                "flags": torch.tensor([True, False]),
                "count": torch.tensor(7),
                "none": torch.empty(0, 4),
                "array": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
                "turned": np.arange(3)[::-1],
                "number": 3,
                "share": 0.25,
            }
        )
    )

    got = server.answer().params
    assert list(got) == [
        "z", "a", "b", "part", "odd", "weight", "half", "flags", "count", "none", "array", "turned", "number", "share",
    ]  # fmt: skip
    assert got["z"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert got["a"].tolist() == got["b"].tolist() == [0, 1, 2, 3, 4, 5]
    assert got["a"].data_ptr() == got["b"].data_ptr()
    assert (got["part"].tolist(), got["odd"].tolist()) == ([1, 2], [0, 2, 4])
    assert torch.equal(got["weight"], net.weight.detach())
    assert not got["weight"].requires_grad
    assert (got["half"].dtype, got["flags"].tolist(), got["count"].item()) == (torch.bfloat16, [True, False], 7)
    assert got["none"].shape == (0, 4)
    assert isinstance(got["array"], np.ndarray)
    assert got["array"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert got["turned"].tolist() == [2, 1, 0]
    assert (got["number"], got["share"]) == (3, 0.25)


def test_a_tied_model_loads_trains_and_goes_back_as_a_diff(serving):
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)

    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a = torch.nn.Linear(2, 2, bias=False)
            self.b = torch.nn.Linear(2, 2, bias=False)
            self.b.weight = self.a.weight

    server = serving(transfer_type="DIFF", exchange_format="pytorch")
    flare.init()
    net = Tied()
    server.give(Tied().state_dict())
    net.load_state_dict(flare.receive().params)
    with torch.no_grad():
        net.a.weight += 1

    flare.send(flare.FLModel(params=net.state_dict()))

    got = server.answer().params
    assert torch.allclose(got["a.weight"], torch.ones(2, 2))
    assert torch.equal(got["a.weight"], got["b.weight"])


def test_the_exchange_format_says_what_the_script_gets(serving):
    torch = pytest.importorskip("torch")
    kinds = {}
    for exchange in ("raw", "numpy", "pytorch"):
        flare._contexts.clear()
        server = serving(exchange_format=exchange)
        flare.init()
        server.give({"t": torch.ones(2), "n": np.ones(2)})
        kinds[exchange] = [type(value) for value in flare.receive().params.values()]

    assert kinds == {
        "raw": [torch.Tensor, np.ndarray],
        "numpy": [np.ndarray, np.ndarray],
        "pytorch": [torch.Tensor, torch.Tensor],
    }


def test_what_is_received_may_be_changed_in_place_whatever_it_is(server):
    torch = pytest.importorskip("torch")
    server.give({"t": torch.ones(2), "n": np.ones(2)})
    params = flare.receive().params

    params["t"].add_(1)
    params["n"] += 1

    assert params["t"].tolist() == params["n"].tolist() == [2, 2]


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"w": {1}}, "'w' is a set"),
        ({"ok": np.ones(1), "bad": np.array([object()])}, "'bad'"),
        ({3: np.ones(1)}, "3"),
        ({"w": [1, 2]}, "'w' is a list"),
    ],
)
def test_what_cannot_travel_is_named_and_the_task_stays_in_hand(server, params, named):
    server.give(arrays(w=[1]))
    flare.receive()

    with pytest.raises(TensorError, match=named):
        flare.send(flare.FLModel(params=params))
    flare.send(flare.FLModel(params=arrays(w=[2])))

    assert server.answer().params["w"].tolist() == [2]


def test_metrics_must_be_numbers(server):
    server.give(arrays(w=[1]))
    flare.receive()

    with pytest.raises(ClientError, match="'confusion' is a list, not a number"):
        flare.send(flare.FLModel(params=arrays(w=[1]), metrics={"confusion": [[1, 2]]}))


class Many:
    """As torch's tensors of several numbers are."""

    def item(self):
        raise RuntimeError("a Tensor with 2 elements cannot be converted to Scalar")


@pytest.mark.parametrize(("value", "kind"), [(object(), "object"), (Many(), "Many"), ([np.dtype("f4")], "list")])
def test_meta_that_cannot_travel_is_named(server, value, kind):
    server.give(arrays(w=[1]))
    flare.receive()

    with pytest.raises(TensorError, match=f"meta: 'net' is a {kind}, which cannot be sent"):
        flare.send(flare.FLModel(params=arrays(w=[1]), meta={"net": value}))


def test_a_whole_number_in_meta_that_is_too_large_is_named(server):
    server.give(arrays(w=[1]))
    flare.receive()

    with pytest.raises(TensorError, match="meta: 'seed' has a whole number of more than 64 bits"):
        flare.send(flare.FLModel(params=arrays(w=[1]), meta={"seed": [2**64]}))


def test_bytes_in_meta_arrive_as_bytes_both_ways(server):
    """Before, they became text in base64."""
    server.give(arrays(w=[1]), meta={"tree": b"\xff\x00"})
    got = flare.receive().meta["tree"]

    flare.send(
        flare.FLModel(params=arrays(w=[1]), meta={"tree": b"\xff\x00", "in": [bytearray(b"a"), memoryview(b"b")]})
    )

    assert got == b"\xff\x00"
    assert server.answer().meta == {"tree": b"\xff\x00", "in": [b"a", b"b"]}


def test_bytes_and_texts_among_the_params_arrive_both_ways_as_they_are(serving):
    server = serving(transfer_type="DIFF", exchange_format="numpy")
    flare.init()
    server.give({"w": np.ones(2), "tree": b"\0\xff", "about": "né"})
    got = flare.receive().params

    flare.send(flare.FLModel(params={"w": np.full(2, 3.0), "tree": b"new\0", "about": ""}))

    assert (got["tree"], got["about"]) == (b"\0\xff", "né")
    answered = server.answer().params
    assert (answered["w"].tolist(), answered["tree"], answered["about"]) == ([2, 2], b"new\0", "")


def test_tensors_in_meta_arrive_as_they_are_both_ways_however_deep(server):
    torch = pytest.importorskip("torch")
    controls = {"fc.weight": torch.tensor([[1.0, -0.0]]), "bn.count": torch.tensor(5)}
    server.give(arrays(w=[1]), meta={"lr": 0.1, "scaffold_c_global": controls, "note": "x"})

    got = flare.receive()
    flare.send(
        flare.FLModel(
            params=arrays(w=[2]),
            meta={
                "scaffold_c_diff": got.meta["scaffold_c_global"],
                "NUM_STEPS_CURRENT_ROUND": 4,
                "deep": [{"a": np.arange(2)}],
            },
        )
    )

    assert list(got.meta) == ["lr", "scaffold_c_global", "note", "job_id", "site_name"]
    answered = server.answer().meta
    assert list(answered) == ["scaffold_c_diff", "NUM_STEPS_CURRENT_ROUND", "deep"]
    assert answered["scaffold_c_diff"]["fc.weight"].numpy().tobytes() == controls["fc.weight"].numpy().tobytes()
    assert answered["scaffold_c_diff"]["bn.count"].dtype == torch.int64
    assert answered["deep"][0]["a"].tolist() == [0, 1]


def test_an_answer_of_metrics_alone_may_have_tensors_in_its_meta(server):
    server.give(arrays(w=[1]))
    flare.receive()

    flare.send(flare.FLModel(metrics={"accuracy": 0.5}, meta={"histogram": np.array([3, 4])}))

    answer = server.answer()
    assert (answer.params, answer.params_type) == (None, None)
    assert answer.meta["histogram"].tolist() == [3, 4]


def test_a_task_without_params_and_with_tensors_in_meta_gives_no_difference(serving):
    server = serving(transfer_type="DIFF")
    flare.init()
    server.give(meta={"mean": np.ones(2)})
    model = flare.receive()

    flare.send(flare.FLModel(params=arrays(w=[5])))

    assert (model.params, model.meta["mean"].tolist()) == (None, [1, 1])
    assert server.answer().params["w"].tolist() == [5]


def test_what_meta_cannot_have_beside_a_tensor_is_named_by_its_path(server):
    server.give(arrays(w=[1]))
    flare.receive()

    with pytest.raises(TensorError, match=r"meta\['a'\]\['b'\]\[1\] is a set, which cannot be kept or sent"):
        flare.send(flare.FLModel(params=arrays(w=[1]), meta={"a": {"t": np.ones(1), "b": [0, {1}]}}))


def test_a_key_of_meta_that_is_no_text_is_named(server):
    server.give(arrays(w=[1]))
    flare.receive()

    with pytest.raises(TensorError, match="meta: the key 3 must be a str, not a int"):
        flare.send(flare.FLModel(params=arrays(w=[1]), meta={3: 1}))


def test_metrics_that_lie_in_the_meta_as_on_nvflares_way_count(server):
    server.give(arrays(w=[1]))
    flare.receive()

    flare.send(flare.FLModel(params=arrays(w=[1]), metrics={"a": 1}, meta={"initial_metrics": {"a": np.float32(0.5)}}))

    assert server.answer().metrics == {"a": 0.5}


def test_send_takes_the_words_it_had_before(server):
    server.give(arrays(w=[1]))
    flare.receive()

    flare.send(flare.FLModel(params=arrays(w=[2])), clear_registry=False)

    assert server.answer().params["w"].tolist() == [2]


@pytest.mark.parametrize("transfer", ["FULL", "DIFF"])
def test_a_network_where_its_params_belong_is_told_the_way_out(serving, transfer):
    server = serving(transfer_type=transfer)
    flare.init()
    server.give(arrays(w=[1]))
    flare.receive()

    class Net:
        def state_dict(self):
            return {}

    with pytest.raises(ClientError, match="params must be a dict from names to arrays, not Net") as raised:
        flare.send(flare.FLModel(params=Net()))

    assert "state_dict()" in raised.value.hint


def test_send_takes_an_flmodel(server):
    with pytest.raises(TypeError, match="takes an FLModel, not a dict"):
        flare.send({"w": 1})


def test_a_model_with_nothing_in_it_is_not_sent(server):
    server.give(arrays(w=[1]))
    flare.receive()

    with pytest.raises(ClientError, match="neither params nor metrics"):
        flare.send(flare.FLModel())


@pytest.mark.parametrize("waited", [False, True])
def test_send_needs_a_receive_before_it(server, waited):
    server.give(arrays(w=[1]))
    if waited:
        assert flare.is_running()

    with pytest.raises(ClientError) as raised:
        flare.send(flare.FLModel(params=arrays(w=[1])))
    assert raised.value.hint == "call flare.receive() first"


def test_a_task_is_answered_once(server):
    server.give(arrays(w=[1]))
    flare.receive()
    flare.send(flare.FLModel(params=arrays(w=[1])))

    with pytest.raises(ClientError, match="a second time for one task"):
        flare.send(flare.FLModel(params=arrays(w=[1])))


def test_a_loop_that_comes_round_to_a_task_it_has_not_answered_is_an_error_and_no_endless_loop(server):
    server.give(arrays(w=[1]), name="validate")

    assert flare.is_running()
    flare.receive()
    assert flare.is_running()
    with pytest.raises(ClientError, match="without an answer to the task 'validate'"):
        flare.receive()


def test_each_task_says_which_it_is(serving):
    server = serving(evaluate_task_name="measure", submit_model_task_name="hand_in")
    flare.init()
    for name in ("train", "measure", "hand_in", "own"):
        server.give(arrays(w=[1]), name=name)

    seen = []
    for _ in range(4):
        flare.receive()
        seen.append((flare.get_task_name(), flare.is_train(), flare.is_evaluate(), flare.is_submit_model()))
        flare.send(flare.FLModel(metrics={"a": 1}))

    assert seen == [
        ("train", True, False, False),
        ("measure", False, True, False),
        ("hand_in", False, False, True),
        ("own", False, False, False),
    ]


def test_an_evaluation_is_answered_with_metrics_only(server):
    server.give(arrays(w=[1]), name="validate")
    flare.receive()
    assert flare.is_evaluate()
    flare.send(flare.FLModel(metrics={"accuracy": 0.75}))

    answer = server.answer()
    assert (answer.params, answer.metrics) == (None, {"accuracy": 0.75})


def test_a_model_is_submitted_whole_though_the_job_says_diff(serving):
    server = serving(transfer_type="DIFF")
    flare.init()
    server.give(name="submit_model", meta={"submit_model_name": "best"})
    model = flare.receive()
    assert flare.is_submit_model()
    assert (model.params, model.meta["submit_model_name"]) == (None, "best")
    flare.send(flare.FLModel(params=arrays(w=[4])))

    answer = server.answer()
    assert (answer.params_type, answer.params["w"].tolist()) == (ParamsType.FULL, [4])


def test_it_knows_where_it_is_and_what_its_job_says(serving):
    serving(train_with_evaluation=True, exchange_format="numpy", transfer_type="DIFF", memory_gc_rounds=2)
    flare.init()

    assert flare.get_site_name() == "site-4"
    assert flare.get_job_id() == "job-7"
    assert flare.system_info() == {"site_name": "site-4", "job_id": "job-7"}
    config = flare.get_config()
    assert (config["job_id"], config["site_name"], config["memory_gc_rounds"]) == ("job-7", "site-4", 2)
    assert config["TASK_EXCHANGE"]["transfer_type"] == "DIFF"
    assert config["TASK_EXCHANGE"]["exchange_format"] == "numpy"
    assert config["TASK_EXCHANGE"]["train_with_eval"] is True


def test_another_rank_of_a_worker_is_told_who_knows_the_site(monkeypatch, tmp_path):
    monkeypatch.setenv(ADDRESS, str(tmp_path / "s"))
    flare.init(rank=1)

    for asks in (flare.get_site_name, flare.site, lambda: flare.partition(10)):
        with pytest.raises(ClientError, match="only rank 0 of a worker knows the client whose task it has, this is ra"):
            asks()


@pytest.mark.parametrize("how", ["argument", "RANK", "LOCAL_RANK"])
def test_another_rank_takes_part_in_nothing(monkeypatch, how):
    monkeypatch.setenv(SITE, "site-4")
    if how != "argument":
        monkeypatch.setenv(how, "2")
        flare.init()
    else:
        flare.init(rank=2)

    assert flare.receive() is None
    assert not flare.is_running()
    flare.send(flare.FLModel(params=arrays(w=[1])))
    assert flare.get_site_name() == "site-4"
    for asks in (flare.is_train, flare.is_evaluate, flare.is_submit_model, flare.get_task_name):
        with pytest.raises(ClientError, match="only rank 0"):
            asks()
    flare.shutdown()


def test_shutdown_leaves_the_run(server):
    server.give(arrays(w=[1]))
    flare.receive()
    flare.shutdown()

    assert not flare.is_running()
    assert flare.receive() is None
    flare.shutdown()
    assert isinstance(server.heard()[0], Ready)
    with pytest.raises(ChannelClosed):
        server.heard()


def test_a_context_is_left_at_its_end_and_can_be_named(serving):
    server = serving()
    with flare.init() as context:
        server.give(arrays(w=[1]))
        assert flare.receive(ctx=context).params["w"].tolist() == [1]
        assert flare.is_train(context)
        assert flare.get_site_name(ctx=context) == "site-4"
        flare.send(flare.FLModel(metrics={"a": 1}), ctx=context)
    assert not flare.is_running(context)


def test_the_streams_are_set_for_each_round_and_site_and_each_time_it_is_asked(server):
    drawn = []
    for round_num, nth in ((0, 0), (1, 0), (0, 0), (0, 1)):
        server.give(arrays(w=[1]), round_num=round_num, nth=nth)
        flare.receive()
        drawn.append((random.random(), float(np.random.rand())))
        flare.send(flare.FLModel(metrics={"a": 1}))
        server.answer()

    assert drawn[0] == drawn[2]
    assert len(set(drawn)) == 3
    assert not server.last.seeded_itself


def test_a_script_that_seeds_itself_keeps_its_streams_and_says_so(server):
    np.random.seed(11)
    expected = np.random.RandomState(11).rand(2).tolist()
    server.give(arrays(w=[1]))
    flare.receive()
    drawn = np.random.rand(2).tolist()
    flare.send(flare.FLModel(metrics={"a": 1}))
    server.answer()

    assert drawn == expected
    assert server.last.seeded_itself


def test_importing_it_loads_nothing_of_the_command_line():
    heavy = ["typer", "rich", "pyhocon", "jinja2", "torch", "fedsag_cli.processes.local", "fedsag_cli.cli"]
    ask = f"import sys, fedsag_cli.client; print([name for name in {heavy} if name in sys.modules])"

    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, timeout=LIMIT_S, cwd=Path("/"))

    assert done.stdout == "[]\n"


def test_settings_are_the_params_of_a_model_that_has_none_yet(serving):
    server = serving(exchange_format="raw")
    flare.init()
    server.give(params={}, meta={"initial_params": {"n_clusters": 3, "kernel": "rbf"}})

    received = flare.receive()

    assert received.params == {"n_clusters": 3, "kernel": "rbf"}


def test_settings_do_not_hide_the_params(serving):
    server = serving(exchange_format="raw")
    flare.init()
    server.give(params=arrays(center=[1.0]), meta={"initial_params": {"n_clusters": 3}})

    assert list(flare.receive().params) == ["center"]


def test_a_raw_answer_leaves_out_what_is_none_and_sends_a_bytearray_as_bytes(serving):
    server = serving(exchange_format="raw")
    flare.init()
    server.give(params={})
    flare.receive()

    flare.send(flare.FLModel(params={"count": None, "model_data": bytearray(b"{}")}))

    assert server.answer().params == {"model_data": b"{}"}
