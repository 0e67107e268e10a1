"""Scatter and gather, with clients that answer at once: who is asked what in which round, and what comes of it."""

import re
import time

import numpy as np
import pytest
import torch
from fakes import update

from fedsag_cli import events
from fedsag_cli.aggregators.fedavg import FedAvg
from fedsag_cli.errors import JobError, NotEnoughClients
from fedsag_cli.model import FLModel, ParamsType
from fedsag_cli.params.arithmetic import difference
from fedsag_cli.params.values import bits, row
from fedsag_cli.testing import FakeClients, FakePersistor
from fedsag_cli.workflows.model_selector import IntimeModelSelector
from fedsag_cli.workflows.run import Best, Run
from fedsag_cli.workflows.scatter_and_gather import ScatterAndGather

pytestmark = pytest.mark.usefixtures("one_thread")


def adds(change, steps=1, **metrics):
    """A client that adds `change` to the model's w; its metrics may be functions of w."""

    def train(model):
        measured = {name: told(w_of(model)) if callable(told) else told for name, told in metrics.items()}
        return update(steps, measured, w=model.params["w"] + change)

    return train


def sends(**params):
    return lambda model: update(**params)


def w_of(model):
    return float(model.params["w"].item())


def fails(model):
    return None


def measures(**metrics):
    return lambda model: FLModel(metrics={name: told(w_of(model)) for name, told in metrics.items()})


INF = float("inf")


class Story:
    """A workflow's run: what it told, what was saved, where it ended."""

    def __init__(self, clients, start=0.0, run=None, **settings):
        self.told = []
        self.clients = clients
        self.persistor = FakePersistor(w=torch.tensor([start]))
        self.run = run or Run(emit=self.told.append)
        self.run.emit = self.told.append
        ScatterAndGather(FedAvg(), self.persistor, **settings).run(clients, self.run)

    def of(self, kind):
        return [event for event in self.told if isinstance(event, kind)]

    @property
    def w(self):
        return w_of(self.run.model)

    @property
    def saved(self):
        return [w_of(model) for model in self.persistor.saved]

    @property
    def best(self):
        return [w_of(model) for model in self.persistor.best]


def test_every_round_sends_the_average_of_the_one_before():
    """1 * 1 + 3 * 5 over 4: plus 4 a round."""
    story = Story(FakeClients(a=adds(1.0, steps=1), b=adds(5.0, steps=3)), num_rounds=3)

    assert {round_num: params["w"].item() for round_num, params in story.clients.sent.items()} == {0: 0, 1: 4, 2: 8}
    assert story.w == 12.0
    assert story.clients.seen == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]


def test_differences_are_added_to_the_model():
    story = Story(
        FakeClients(
            a=lambda model: update(1, kind="DIFF", w=torch.tensor([1.0])),
            b=lambda model: update(3, kind="DIFF", w=torch.tensor([-3.0])),
        ),
        start=10.0,
        num_rounds=2,
    )

    assert story.w == 6.0


def test_a_model_goes_out_full_with_its_round_and_without_the_clients_metrics():
    heard = []

    def train(model):
        heard.append((model.params_type, model.current_round, model.total_rounds, model.metrics))
        return adds(1.0, accuracy=0.5)(model)

    Story(FakeClients(a=train), num_rounds=2)

    assert heard == [(ParamsType.FULL, 0, 2, None), (ParamsType.FULL, 1, 2, None)]


def test_rounds_are_counted_from_the_start_round_on():
    story = Story(FakeClients(a=adds(1.0)), num_rounds=2, start_round=3)

    assert story.clients.seen == [("a", 3), ("a", 4)]
    assert [event.round_num for event in story.of(events.RoundStarted)] == [3, 4]
    assert [event.round_num for event in story.of(events.RoundFinished)] == [3, 4]
    assert story.run.next_round == 5


def test_a_script_is_told_how_many_rounds_there_are_and_where_they_began():
    heard = []

    def train(model):
        heard.append((model.current_round, model.start_round, model.total_rounds))
        return adds(1.0)(model)

    Story(FakeClients(a=train), num_rounds=2, start_round=3)

    assert heard == [(3, 3, 2), (4, 3, 2)]


def test_a_resumed_run_goes_on_with_the_round_after_the_last_whole_one():
    run = Run(emit=print, next_round=3, model=FLModel(params={"w": torch.tensor([7.0])}))

    story = Story(FakeClients(a=adds(1.0)), run=run, num_rounds=5)

    assert story.clients.seen == [("a", 3), ("a", 4)]
    assert story.clients.sent[3]["w"].item() == 7.0
    assert story.w == 9.0


def test_a_resumed_run_remembers_the_best_score():
    run = Run(emit=print, next_round=1, model=FLModel(params={"w": torch.tensor([1.0])}), best=Best(0.9, 0))

    story = Story(
        FakeClients(a=adds(1.0, accuracy=lambda w: 0.5)),
        run=run,
        num_rounds=3,
        model_selector=IntimeModelSelector("accuracy"),
    )

    assert story.best == []
    assert story.run.best == Best(0.9, 0)


def test_more_min_clients_than_there_are_count_as_all_and_that_is_said_once():
    story = Story(FakeClients(a=adds(1.0), b=adds(3.0)), min_clients=7, num_rounds=3)

    assert [call["min"] for call in story.clients.asked] == [2, 2, 2]
    assert [notice.text for notice in story.of(events.Notice)] == [
        "min_clients is 7, there are 2 clients: it counts as 2"
    ]


def test_as_many_min_clients_as_there_are_need_no_word():
    assert Story(FakeClients(a=adds(1.0), b=adds(3.0)), min_clients=2, num_rounds=1).of(events.Notice) == []


def test_the_clients_are_asked_with_the_jobs_waiting_times():
    story = Story(FakeClients(a=adds(1.0)), num_rounds=1, wait_time_after_min_received=2.5, train_timeout=7)

    assert story.clients.asked == [{"task": "train", "min": 1, "timeout_s": 7, "grace_s": 2.5}]


def test_a_train_timeout_of_zero_is_none():
    assert Story(FakeClients(a=adds(1.0)), num_rounds=1).clients.asked[0]["timeout_s"] is None


def test_a_round_without_its_quorum_ends_the_run_and_nothing_of_it_is_saved():
    clients = FakeClients(a=adds(1.0), b=lambda model: None if model.current_round == 1 else adds(3.0)(model))
    persistor, told = FakePersistor(w=torch.tensor([0.0])), []
    run = Run(emit=told.append)

    with pytest.raises(NotEnoughClients):
        ScatterAndGather(FedAvg(), persistor, num_rounds=3, min_clients=2).run(clients, run)

    assert [w_of(model) for model in persistor.saved] == [2.0]
    assert run.next_round == 1
    assert w_of(run.model) == 2.0


@pytest.mark.parametrize(
    ("every", "saved"),
    [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (3, [3, 5]), (5, [5]), (9, [5]), (0, [5])],
)
def test_the_model_is_written_every_so_many_rounds_and_at_the_end(every, saved):
    story = Story(FakeClients(a=adds(1.0)), num_rounds=5, persist_every_n_rounds=every)

    assert story.saved == saved
    assert len(story.of(events.ModelSaved)) == len(saved)


def test_all_that_is_to_be_written_is_written_when_the_run_returns():
    class Slow(FakePersistor):
        def save(self, model):
            time.sleep(0.02)
            return super().save(model)

    persistor = Slow(w=torch.tensor([0.0]))
    ScatterAndGather(FedAvg(), persistor, num_rounds=4).run(FakeClients(a=adds(1.0)), Run(emit=lambda event: None))

    assert [w_of(model) for model in persistor.saved] == [1, 2, 3, 4]


def test_a_model_that_cannot_be_written_fails_the_run():
    class Full(FakePersistor):
        def save(self, model):
            raise OSError(28, "No space left on device")

    workflow = ScatterAndGather(FedAvg(), Full(w=torch.tensor([0.0])), num_rounds=1)

    with pytest.raises(OSError, match="No space"):
        workflow.run(FakeClients(a=adds(1.0)), Run(emit=lambda event: None))


# who is rejected, and why


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (lambda model: FLModel(metrics={"accuracy": 1.0}), "its answer to the task 'train' has no params"),
        (sends(w=torch.tensor([9.0]), foreign=torch.tensor([1.0])), "'foreign' was not in the model"),
        (sends(w=torch.tensor([9.0, 9.0])), r"'w' has shape \[2\], the model that was sent has \[1\]"),
        (sends(w=torch.tensor(9.0)), r"'w' has shape \[\]"),
        (sends(w=torch.tensor([9j])), "'w' is complex"),
        (lambda model: update(-3, w=torch.tensor([9.0])), "NUM_STEPS_CURRENT_ROUND"),
        (lambda model: update("many", w=torch.tensor([9.0])), "NUM_STEPS_CURRENT_ROUND"),
        (lambda model: update(1, kind="DIFF", w=torch.tensor([9.0])), "b sent .*DIFF"),
    ],
    ids=["no params", "a foreign key", "a wrong shape", "no axes", "complex", "negative steps", "no steps", "DIFF"],
)
def test_a_site_whose_answer_does_not_fit_is_rejected_with_the_cause_and_the_others_average_stands(answer, cause):
    clients = FakeClients(a=adds(1.0, steps=1, accuracy=0.5), b=answer, c=adds(5.0, steps=3, accuracy=0.9))

    story = Story(clients, num_rounds=1)

    assert list(clients.rejected) == ["b"]
    assert re.search(cause, clients.rejected["b"]), clients.rejected["b"]
    assert story.w == 4.0
    finished = story.of(events.RoundFinished)[0]
    assert finished.sites == ["a", "c"]
    assert finished.metrics == pytest.approx({"accuracy": 0.8})


def test_keys_that_the_aggregator_leaves_out_need_not_be_in_the_model():
    """So it is in NVFLARE. A change of infinity in such a key cannot be told by a difference, and need not be."""
    masked = FakePersistor(w=torch.tensor([1.0]), mask=torch.tensor([-INF]))
    answer = update(1, kind="DIFF", w=torch.tensor([2.0]), head=torch.ones(1), mask=torch.tensor([INF]))
    clients = FakeClients(a=lambda model: answer)

    run = Run(emit=lambda event: None)
    ScatterAndGather(FedAvg(exclude_vars="head|mask"), masked, num_rounds=1).run(clients, run)

    assert clients.rejected == {}
    assert {name: value.tolist() for name, value in run.model.params.items()} == {"w": [3.0], "mask": [-INF]}


@pytest.mark.parametrize("kind", ["FULL", "DIFF"])
def test_masks_and_counters_that_nobody_changed_are_the_same_after_all_rounds(kind):
    """Beside a weight that trains, in updates of 500 steps."""
    fixed = {
        "causal": np.triu(np.full((3, 3), -INF, np.float32), 1),
        "lowest": np.array([np.finfo(np.float32).min, -0.0], np.float32),
        "double": np.array([np.finfo(np.float64).min, 5e-324]),
        "half": torch.tensor([torch.finfo(torch.bfloat16).min, 1e-40]).bfloat16(),
        "nan": np.array([INF, float("nan")]),
        "count": np.array([2**63 - 1, -(2**63), 2**53 + 1]),
        "flags": np.array([True, False]),
    }

    def trains(steps):
        def answer(model):
            new = model.params | {"w": model.params["w"] + 1}
            return update(steps, kind=kind, **(difference(new, model.params) if kind == "DIFF" else new))

        return answer

    run, clients = Run(emit=lambda event: None), FakeClients(a=trains(500), b=trains(501), c=trains(333))
    ScatterAndGather(FedAvg(), FakePersistor(w=np.float32([0]), **fixed), num_rounds=3).run(clients, run)

    assert clients.rejected == {}
    assert run.model.params["w"].tolist() == [pytest.approx(3.0)]
    for name, value in fixed.items():
        assert bits(row(run.model.params[name])).tolist() == bits(row(value)).tolist(), name


def test_keys_that_the_model_does_not_have_can_be_allowed():
    run = Run(emit=lambda event: None)
    clients = FakeClients(a=sends(w=torch.tensor([9.0]), foreign=torch.tensor([1.0])))

    ScatterAndGather(FedAvg(), FakePersistor(w=torch.tensor([0.0])), num_rounds=2, allow_unknown_keys=True).run(
        clients, run
    )

    assert {name: value.tolist() for name, value in run.model.params.items()} == {"w": [9.0]}


def test_a_rejected_answer_counts_as_none_for_the_quorum():
    clients = FakeClients(a=adds(1.0), b=sends(w=torch.zeros(2)))

    with pytest.raises(NotEnoughClients):
        Story(clients, num_rounds=1, min_clients=2)


def test_an_answer_with_some_keys_only_changes_those():
    clients = FakeClients(a=sends(w=torch.tensor([3.0])))
    persistor = FakePersistor(w=torch.tensor([1.0]), kept=torch.tensor([5.0]))
    run = Run(emit=lambda event: None)

    ScatterAndGather(FedAvg(), persistor, num_rounds=1).run(clients, run)

    assert {name: value.item() for name, value in run.model.params.items()} == {"w": 3.0, "kept": 5.0}


def test_a_round_in_which_nothing_is_accepted_keeps_the_model():
    class Lenient(FakeClients):
        def ask(self, task, **asked):
            return super().ask(task, **(asked | {"min_responses": 0}))

    story = Story(Lenient(a=sends(w=torch.zeros(2)), b=fails), start=7.0, num_rounds=1)

    assert story.w == 7.0
    assert story.of(events.RoundFinished)[0].sites == []
    assert story.saved == [7.0]


def test_updates_of_no_steps_keep_the_model():
    assert Story(FakeClients(a=adds(5.0, steps=0)), start=7.0, num_rounds=1).w == 7.0


def test_integers_are_rounded_half_to_even_and_keep_their_dtype_full_or_diff():
    base = {"n": torch.tensor(10, dtype=torch.uint8), "m": np.int32([10])}
    full = FakeClients(a=sends(n=torch.tensor(1, dtype=torch.uint8)), b=sends(n=torch.tensor(2, dtype=torch.uint8)))
    diff = FakeClients(
        a=lambda model: update(kind="DIFF", n=torch.tensor(-8), m=np.int64([-3])),
        b=lambda model: update(kind="DIFF", n=torch.tensor(-7), m=np.int64([-4])),
    )
    found = {}
    for name, clients in {"full": full, "diff": diff}.items():
        run = Run(emit=lambda event: None)
        ScatterAndGather(FedAvg(), FakePersistor(**base), num_rounds=1).run(clients, run)
        found[name] = {key: (np.asarray(value).tolist(), str(value.dtype)) for key, value in run.model.params.items()}

    assert found["full"] == {"n": (2, "torch.uint8"), "m": ([10], "int32")}
    assert found["diff"] == {"n": (2, "torch.uint8"), "m": ([6], "int32")}


def test_numpys_and_torchs_sites_may_be_mixed_and_the_model_stays_what_it_was():
    clients = FakeClients(a=sends(w=np.float32([1.0])), b=lambda model: update(3, w=torch.tensor([9.0])))

    story = Story(clients, num_rounds=1)

    assert isinstance(story.run.model.params["w"], torch.Tensor)
    assert story.w == 7.0


def test_an_empty_model_is_refused_unless_the_job_allows_it():
    def run(**settings):
        told = Run(emit=lambda event: None)
        ScatterAndGather(FedAvg(), FakePersistor(), num_rounds=1, **settings).run(
            FakeClients(a=sends(w=torch.tensor([3.0]))), told
        )
        return told.model.params

    with pytest.raises(JobError, match="without params"):
        run()

    assert run(allow_empty_global_weights=True)["w"].item() == 3.0


# metrics and the best model


def test_a_rounds_metrics_are_the_means_weighted_by_steps():
    clients = FakeClients(a=adds(0.0, steps=1, accuracy=0.5, loss=2.0), b=adds(0.0, steps=3, accuracy=0.9))

    finished = Story(clients, num_rounds=1).of(events.RoundFinished)[0]

    assert finished.metrics == pytest.approx({"accuracy": 0.8, "loss": 2.0})
    assert finished.sites == ["a", "b"]


SCORES = {0.0: 0.9, 1.0: 0.5, 2.0: 0.7, 3.0: 0.7, 4.0: 0.6}  # of the model whose w is that


def scored(**settings):
    train = adds(1.0, accuracy=SCORES.__getitem__)
    selector = IntimeModelSelector("accuracy", negate_key_metric=settings.pop("negate", False))
    return Story(FakeClients(a=train, **settings.pop("more", {})), num_rounds=5, model_selector=selector, **settings)


def test_the_best_model_is_the_one_sent_in_the_best_round_and_never_round_0s():
    story = scored()

    assert [(event.round_num, event.score) for event in story.of(events.BestModel)] == [(1, 0.5), (2, 0.7)]
    assert story.best == [1.0, 2.0]
    assert story.run.best == Best(0.7, 2, "accuracy")


def test_negated_the_least_is_the_best():
    story = scored(negate=True)

    assert [(event.round_num, event.score) for event in story.of(events.BestModel)] == [(1, 0.5)]
    assert story.best == [1.0]


def test_the_first_round_of_a_later_start_is_judged():
    story = Story(
        FakeClients(a=adds(1.0, accuracy=0.5)),
        num_rounds=1,
        start_round=2,
        model_selector=IntimeModelSelector("accuracy"),
    )

    assert story.best == [0.0]


def test_without_a_selector_no_model_is_the_best():
    story = Story(FakeClients(a=adds(1.0, accuracy=0.5)), num_rounds=3)

    assert story.best == []
    assert story.of(events.BestModel) == []


def test_rejected_answers_have_no_say_in_the_best_model():
    clients = FakeClients(
        a=adds(1.0, accuracy=0.25),
        b=lambda model: update(1, {"accuracy": 100.0}, w=torch.zeros(2)),
    )

    story = Story(clients, num_rounds=2, model_selector=IntimeModelSelector("accuracy"))

    assert story.run.best == Best(0.25, 1, "accuracy")


def rounds_of(story):
    return [event.sites for event in story.of(events.RoundStarted)]


def test_each_round_draws_as_many_clients_as_it_is_told_to_in_site_order():
    scripts = dict.fromkeys("abcdefgh", adds(1.0))

    story = Story(FakeClients(**scripts), num_clients=3, num_rounds=40)

    drawn = rounds_of(story)
    assert {len(each) for each in drawn} == {3}
    assert all(each == sorted(each) for each in drawn)
    assert story.clients.seen == [(site, number) for number, each in enumerate(drawn) for site in each]
    assert len({tuple(each) for each in drawn}) > 20, "anew in each round"
    often = [sum(site in each for each in drawn) for site in scripts]
    assert min(often) >= 5, "15 times on average"
    assert story.w == 40.0, "a mean over those that were drawn"


def test_who_is_drawn_depends_on_the_seed_and_the_round_and_not_on_where_a_run_went_on():
    def drawn(seed=7, **settings):
        run = Run(emit=print, seed=seed, **settings)
        return rounds_of(Story(FakeClients(**dict.fromkeys("abcdefgh", adds(1.0))), run=run, num_clients=2))

    assert drawn() == drawn()
    assert drawn() != drawn(seed=8)
    assert drawn(next_round=3, model=FLModel(params={"w": torch.tensor([3.0])})) == drawn()[3:]


def test_of_those_that_are_drawn_min_clients_have_to_answer():
    scripts = {"a": adds(1.0), "b": adds(1.0), "c": adds(1.0), "d": adds(1.0)}

    story = Story(FakeClients(**scripts), num_clients=3, min_clients=2, num_rounds=1)

    assert [call["min"] for call in story.clients.asked] == [2]
    assert Story(FakeClients(**scripts), num_clients=3, min_clients=4, num_rounds=1).clients.asked[0]["min"] == 3


def test_more_clients_to_draw_than_there_are_count_as_all_and_that_is_said_once():
    story = Story(FakeClients(a=adds(1.0), b=adds(3.0)), num_clients=3, min_clients=3, num_rounds=2)

    assert rounds_of(story) == [["a", "b"]] * 2
    assert [notice.text for notice in story.of(events.Notice)] == [
        "num_clients is 3, there are 2 clients: all take part"
    ]


def test_more_min_clients_than_are_drawn_count_as_those_and_that_is_said():
    story = Story(FakeClients(**dict.fromkeys("abcd", adds(1.0))), num_clients=2, min_clients=3, num_rounds=1)

    assert [notice.text for notice in story.of(events.Notice)] == [
        "min_clients is 3, a round has 2 clients: it counts as 2"
    ]


def test_where_no_params_were_sent_an_answer_with_nan_counts_as_failed_all_the_same():
    class Empty(FakePersistor):
        def load(self):
            return FLModel(params={})

    story = Story.__new__(Story)
    story.told, story.clients = [], FakeClients(a=sends(w=torch.tensor([1.0])), b=sends(w=torch.tensor([float("nan")])))
    story.run = Run(emit=story.told.append)
    ScatterAndGather(FedAvg(), Empty(), allow_empty_global_weights=True, num_rounds=1).run(story.clients, story.run)

    assert story.w == 1.0
    assert story.clients.rejected == {"b": "params: 'w' has 1 numbers that are NaN or infinite"}


def stopping(values, **settings):
    """One client that measures these, one a round; the rounds there were and what was said at the end."""
    numbers = iter(values)
    clients = FakeClients(a=lambda model: adds(1.0, accuracy=next(numbers))(model), validate={"a": measures(it=float)})
    story = Story(clients, num_rounds=len(values), **settings)
    return story, [notice.text for notice in story.of(events.Notice)]


def test_a_condition_that_is_met_ends_the_rounds_and_the_last_aggregate_is_kept_and_measured():
    story, said = stopping([0.5, 0.8, 0.9, 0.95], stop_cond="accuracy >= 0.8", persist_every_n_rounds=0)

    assert said == ["stopped after round 1: accuracy is 0.8, which is >= 0.8"]
    assert (story.w, story.saved) == (2.0, [2.0])
    assert [(event.round_num, event.metrics) for event in story.of(events.ModelValidated)] == [(2, {"it": 2.0})]
    assert [event.num_rounds for event in story.of(events.RoundStarted)] == [4, 4]


@pytest.mark.parametrize(
    ("condition", "last"),
    [
        ("accuracy > 3", 3),
        ("accuracy>=3", 2),
        ("accuracy < 2", 0),
        ("accuracy <= 0.5", None),
        ("val acc <= 1", None),
        ("accuracy = 4", 3),
        ("accuracy=2.5", None),
    ],
)
def test_a_condition_is_a_metric_a_comparison_and_a_number(condition, last):
    story, said = stopping([1.0, 2.0, 3.0, 4.0, 5.0], stop_cond=condition)

    assert len(story.of(events.RoundFinished)) == (5 if last is None else last + 1)
    assert any("stopped after" in text for text in said) == (last is not None)


def test_rounds_without_a_better_value_end_the_run_when_patience_is_over():
    story, said = stopping([0.1, 0.3, 0.3, 0.2, 0.9], stop_cond="accuracy >= 1", patience=2)

    assert said == ["stopped after round 3: accuracy was no better than 0.3 for 2 rounds"]
    assert story.w == 4.0


def test_where_less_is_asked_for_less_is_better():
    _, said = stopping([3.0, 2.0, 2.5, 1.0, 1.5], stop_cond="accuracy < 0.5", patience=1)

    assert said == ["stopped after round 2: accuracy was no better than 2 for 1 round"]


def test_where_one_value_is_asked_for_nearer_is_better():
    _, said = stopping([3.0, 2.0, 0.5, 0.5, 1.5, 1.0], stop_cond="accuracy = 1", patience=2)

    assert said == ["stopped after round 4: accuracy was no better than 0.5 for 2 rounds"]


def test_a_better_value_begins_the_patience_anew_and_a_missing_one_uses_it_up():
    _, said = stopping([0.1, 0.1, 0.2, 0.1, float("nan"), 0.3], stop_cond="accuracy > 1", patience=2)

    assert said[-1] == "stopped after round 4: accuracy was no better than 0.2 for 2 rounds"


def test_a_condition_on_what_nobody_measures_is_told_once():
    story, said = stopping([0.1, 0.2, 0.3], stop_cond="f1 > 0.1", patience=1)

    assert said == ["no client sent 'f1', which stop_cond needs; metrics sent: accuracy"]
    assert story.w == 3.0


def test_of_many_metrics_that_were_sent_a_note_has_the_first_names():
    many = {f"m{number}": 1.0 for number in range(30)}
    story = Story(FakeClients(a=adds(1.0, **many)), num_rounds=1, stop_cond="f1 > 0.1")

    [said] = [notice.text for notice in story.of(events.Notice)]

    assert said.endswith("metrics sent: m0, m1, m10, m11, m12, m13 and 24 more")


def test_a_run_that_goes_on_after_its_last_round_stops_there_and_its_patience_goes_on_too():
    first, _ = stopping([0.3, 0.2], stop_cond="accuracy > 1", patience=2)
    numbers = iter([0.1, 0.9])
    run = Run(emit=print, next_round=2, history=[first.run.last], plateau=first.run.plateau, model=first.run.model)
    clients = FakeClients(a=lambda model: adds(1.0, accuracy=next(numbers))(model))
    story = Story(clients, run=run, num_rounds=9, stop_cond="accuracy > 1", patience=2)
    again = Story(FakeClients(a=fails), run=story.run, num_rounds=9, stop_cond="accuracy > 1", patience=2)

    assert rounds_of(story) == [["a"]]
    assert rounds_of(again) == []
    assert again.saved == [3.0], "nobody knows whether the run before had written it"
    assert [notice.text for notice in again.of(events.Notice)] == [
        "stopped after round 2: accuracy was no better than 0.3 for 2 rounds"
    ]


@pytest.mark.parametrize("wrong", ["accuracy", "accuracy >= high", ">= 3", "accuracy == 3", "accuracy => 3"])
def test_what_is_no_condition_is_an_error_with_one_that_is(wrong):
    expected = "stop_cond must be a metric, one of >= <= > < =, and a number, such as 'accuracy >= 80'"
    with pytest.raises(JobError, match=expected):
        ScatterAndGather(FedAvg(), FakePersistor(), stop_cond=wrong)


@pytest.mark.parametrize(("mu", "arrives"), [(0.1, {"fedprox_mu": 0.1}), (0, {}), (None, {})])
def test_the_proximal_coefficient_goes_along_with_every_model_and_stays_out_of_the_next(mu, arrives):
    heard = []

    def train(model):
        heard.append(model.meta)
        return adds(1.0)(model)

    story = Story(FakeClients(a=train), num_rounds=2, fedprox_mu=mu)

    assert heard == [arrives] * 2
    assert story.run.model.meta == {}


def test_patience_alone_is_an_error():
    with pytest.raises(JobError, match="patience needs stop_cond"):
        ScatterAndGather(FedAvg(), FakePersistor(), patience=3)


def test_the_last_aggregate_is_validated_where_clients_list_it_and_may_become_the_best():
    clients = FakeClients(
        a=adds(1.0, accuracy=lambda w: w / 10),
        b=adds(1.0, accuracy=lambda w: w / 10),
        validate={"b": measures(accuracy=lambda w: w / 10, loss=lambda w: -w)},
    )

    story = Story(clients, num_rounds=3, model_selector=IntimeModelSelector("accuracy"), wait_time_after_min_received=0)

    assert clients.asked[-1] == {"task": "validate", "min": 0, "timeout_s": None, "grace_s": None}, "all are waited for"
    validated = story.of(events.ModelValidated)[0]
    assert (validated.round_num, validated.metrics) == (3, pytest.approx({"accuracy": 0.3, "loss": -3.0}))
    assert list(validated.by_site) == ["b"]
    assert story.best == [1.0, 2.0, 3.0]
    assert story.run.best == Best(pytest.approx(0.3), 3, "accuracy", is_final=True)


def test_a_last_aggregate_that_is_worse_does_not_become_the_best():
    story = Story(
        FakeClients(a=adds(1.0, accuracy=0.5), validate={"a": measures(accuracy=lambda w: 0.4)}),
        num_rounds=3,
        model_selector=IntimeModelSelector("accuracy"),
    )

    assert story.best == [1.0]


def test_of_a_client_that_trains_in_place_of_measuring_only_the_metrics_count():
    """The script of the README, if it is asked to validate: it measures what it received, then trains that."""
    trains = adds(1.0, accuracy=lambda w: w)

    def diverges(model):
        return update(1, {"accuracy": w_of(model)}, w=torch.tensor([INF]), other=torch.zeros(2))

    story = Story(FakeClients(a=trains, b=trains, validate={"a": trains, "b": diverges}), num_rounds=2)

    (validated,) = story.of(events.ModelValidated)
    assert validated.by_site == {"a": {"accuracy": 2.0}, "b": {"accuracy": 2.0}}
    assert (story.w, story.clients.rejected) == (2.0, {})
    told = [event.text for event in story.of(events.Notice) if "trained when" in event.text]
    assert len(told) == 1
    assert "flare.is_evaluate()" in told[0]


def test_a_client_that_measures_is_not_said_to_have_trained():
    story = Story(FakeClients(a=adds(1.0), validate={"a": measures(accuracy=float)}), num_rounds=1)

    assert not [event for event in story.of(events.Notice) if "trained" in event.text]


def test_where_no_client_lists_validate_nobody_is_asked():
    story = scored()

    assert {call["task"] for call in story.clients.asked} == {"train"}
    assert story.of(events.ModelValidated) == []


def test_an_answer_to_validate_with_nonsense_for_steps_is_rejected_and_the_run_goes_on():
    clients = FakeClients(
        a=adds(1.0, accuracy=0.1),
        validate={
            "a": lambda model: FLModel(metrics={"accuracy": 0.9}, meta={"NUM_STEPS_CURRENT_ROUND": "many"}),
        },
    )

    story = Story(clients, num_rounds=2, model_selector=IntimeModelSelector("accuracy"))

    assert "NUM_STEPS_CURRENT_ROUND" in clients.rejected["a"]
    assert story.of(events.ModelValidated)[0].by_site == {}


# arguments


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min_clients", 0),
        ("min_clients", -1),
        ("min_clients", 1.5),
        ("min_clients", "2"),
        ("min_clients", True),
        ("num_rounds", 0),
        ("num_rounds", "abc"),
        ("num_rounds", None),
        ("start_round", -1),
        ("start_round", 0.5),
        ("wait_time_after_min_received", -0.1),
        ("wait_time_after_min_received", "10"),
        ("train_timeout", -1),
        ("train_timeout", float("nan")),
        ("train_timeout", float("inf")),
        ("persist_every_n_rounds", -1),
        ("persist_every_n_rounds", 1.5),
    ],
)
def test_an_argument_out_of_range_is_an_error_naming_it(name, value):
    with pytest.raises(JobError, match=name):
        ScatterAndGather(FedAvg(), FakePersistor(), **{name: value})


def test_the_least_allowed_arguments_are_taken():
    ScatterAndGather(
        FedAvg(),
        FakePersistor(),
        min_clients=1,
        num_rounds=1,
        start_round=0,
        wait_time_after_min_received=0,
        train_timeout=0.5,
        persist_every_n_rounds=0,
    )


def test_a_task_that_no_client_takes_is_an_error():
    with pytest.raises(JobError, match="no client takes the task 'tran'"):
        Story(FakeClients(a=adds(1)), train_task_name="tran")


def test_an_empty_stop_condition_is_none():
    assert Story(FakeClients(a=adds(1)), num_rounds=2, stop_cond="").run.whole_rounds == 2


@pytest.mark.parametrize(
    ("method", "returns", "says"),
    [
        ("aggregate", None, r"Mine.aggregate\(\) returned NoneType, not an FLModel"),
        ("begin", 5, r"Mine.begin\(\) returned int, not an FLModel or None"),
    ],
)
def test_an_aggregator_that_returns_no_model_is_named(method, returns, says):
    class Mine(FedAvg):
        pass

    setattr(Mine, method, lambda *_: returns)
    clients = FakeClients(a=lambda model: update(1, w=model.params["w"]))
    workflow = ScatterAndGather(Mine(), FakePersistor(w=np.ones(1, np.float32)), num_rounds=1)

    with pytest.raises(TypeError, match=says):
        workflow.run(clients, Run(emit=[].append))
