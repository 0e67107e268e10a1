"""The files in which tools made for NVFLARE look, written from a history of events."""

import json

import msgspec
import pytest

from fedsag_cli import events
from fedsag_cli.interop.records import Records
from fedsag_cli.plan import ComponentSpec
from fedsag_cli.workspace import Workspace

META = {"name": "j", "deploy_map": {"app": ["@ALL"]}, "min_clients": 2}
SELECTOR = ComponentSpec(path="IntimeModelSelector", id="s", args={"key_metric": "loss", "negate_key_metric": True})
STARTED = events.RunStarted(
    job="j", workspace="ws", sites=["a", "b"], slots=1, threads=1, seed=0, launcher="fork", versions={}
)
ENDED = events.WorkflowFinished(digest="", seeded_themselves=[])


@pytest.fixture
def tell(tmp_path):
    """Tells a run in a workspace, with the right to it, the events; a second call is a run that goes on."""

    def tell(*told):
        workspace = Workspace(tmp_path)
        workspace.take()
        for name in ("server", "a", "b"):
            workspace.job(name).mkdir(parents=True, exist_ok=True)
        workspace.reopen()
        records = Records(workspace, META, [SELECTOR])
        for event in told:
            records.on(event)
        workspace.release()

    return tell


def round_of(number, *, loss, answers=()):
    """The events of a round in which these sites answered, each with its loss and its steps."""
    yield events.RoundStarted(round_num=number, first_round=0, num_rounds=3, sites=["a", "b"])
    for site, mine, steps in answers:
        yield events.ReplyAccepted(
            site=site, task="train", round_num=number, metrics={"loss": mine}, num_steps=steps, size=1, work_s=0.1
        )
    metrics = {} if loss is None else {"loss": loss}
    yield events.RoundFinished(round_num=number, sites=["a", "b"], metrics=metrics, wait_s=0, aggregate_s=0, save_s=0)


def rounds(tmp_path):
    lines = (tmp_path / "server" / "simulate_job" / "metrics" / "round_metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def summary(tmp_path):
    return json.loads((tmp_path / "server" / "simulate_job" / "metrics" / "metrics_summary.json").read_text())


def test_each_round_has_a_line_and_the_last_and_the_best_are_in_the_summary(tell, tmp_path):
    best = events.BestModel(round_num=1, metric="loss", score=0.25)

    tell(
        STARTED,
        *round_of(0, loss=0.75, answers=[("a", 1.0, 1.0), ("b", 0.5, 1.0)]),
        best,
        *round_of(1, loss=0.25),
        ENDED,
    )

    first, second = rounds(tmp_path)
    assert (first["round"], first["aggregated_metrics"]) == (0, [{"name": "loss", "value": 0.75}])
    assert [(each["name"], each["metrics"][0]["value"], each["weight"]) for each in first["sites"]] == [
        ("a", 1.0, 1.0),
        ("b", 0.5, 1.0),
    ]
    assert second["sites"] == []
    found = summary(tmp_path)
    assert (found["final_round"], found["final_aggregated_metrics"]) == (1, [{"name": "loss", "value": 0.25}])
    assert (found["best_round"], found["best_metrics"]) == (1, [{"name": "loss", "value": 0.25}])
    assert (found["key_metric"]["name"], found["key_metric"]["mode"], found["job_name"]) == ("loss", "min", "j")


def test_a_site_that_trained_no_step_has_no_weight_as_nvflare_writes_none(tell, tmp_path):
    tell(STARTED, *round_of(0, loss=1.0, answers=[("a", 1.0, 2.0), ("b", 3.0, 0.0)]))

    (only,) = rounds(tmp_path)
    assert [(each["name"], each.get("weight"), each.get("weight_key")) for each in only["sites"]] == [
        ("a", 2.0, "NUM_STEPS_CURRENT_ROUND"),
        ("b", None, None),
    ]


def test_what_is_no_number_is_skipped_and_said(tell, tmp_path):
    tell(STARTED, *round_of(0, loss=None, answers=[("a", None, 1.0)]))

    (only,) = rounds(tmp_path)
    assert only["aggregated_metrics"] == []
    assert only["skipped_metrics"] == [{"name": "loss", "reason": "non_finite_number", "site": "a"}]


def test_a_site_without_a_finite_value_is_not_in_the_mean_and_is_named(tell, tmp_path):
    diverged = [("a", None, 1.0), ("b", 0.5, 2.0), ("c", 2.0, 1.0)]
    (*before, finished) = round_of(0, loss=0.0, answers=diverged)
    tell(STARTED, *before, msgspec.structs.replace(finished, metrics={"loss": None}), ENDED)

    (only,) = rounds(tmp_path)
    assert only["aggregated_metrics"] == summary(tmp_path)["final_aggregated_metrics"]
    assert only["aggregated_metrics"] == [{"name": "loss", "value": 1.0}]
    assert only["skipped_metrics"] == [{"name": "loss", "reason": "non_finite_number", "site": "a"}]


def test_the_summary_and_each_round_say_how_the_means_are_made(tell, tmp_path):
    tell(STARTED, *round_of(0, loss=1.0, answers=[("a", 1.0, 2.0)]), ENDED)

    assert summary(tmp_path)["aggregation"] == rounds(tmp_path)[0]["aggregation"]
    assert summary(tmp_path)["aggregation"] == {
        "method": "weighted_average",
        "weight_key": "NUM_STEPS_CURRENT_ROUND",
        "weight_formula": "NUM_STEPS_CURRENT_ROUND",
        "metric_policy": "finite_numeric_metrics_only_per_key_denominator",
    }


def test_a_run_that_goes_on_keeps_the_lines_of_its_whole_rounds_only(tell, tmp_path):
    tell(STARTED, *round_of(0, loss=0.5), *round_of(1, loss=0.4))

    tell(STARTED, events.ServerReady(next_round=1, whole_rounds=1), *round_of(1, loss=None), ENDED)

    assert [(each["round"], len(each["aggregated_metrics"])) for each in rounds(tmp_path)] == [(0, 1), (1, 0)]
    assert summary(tmp_path)["final_round"] == 0


def test_the_round_that_only_the_checkpoint_knows_gets_its_line(tell, tmp_path):
    (*_, finished) = round_of(1, loss=0.4)
    tell(STARTED, *round_of(0, loss=0.5))

    tell(STARTED, events.ServerReady(next_round=2, whole_rounds=2, last=finished), ENDED)

    assert [each["round"] for each in rounds(tmp_path)] == [0, 1]


@pytest.mark.parametrize("left", [b"\0" * 64 + b"\n", b'{"round": 1, "aggre\n', b"7\n"])
def test_a_run_goes_on_after_a_power_cut_that_spoiled_a_line(left, tell, tmp_path):
    tell(STARTED, *round_of(0, loss=0.5))
    with (tmp_path / "server" / "simulate_job" / "metrics" / "round_metrics.jsonl").open("ab") as file:
        file.write(left)

    tell(STARTED, events.ServerReady(next_round=2, whole_rounds=2), *round_of(2, loss=0.4), ENDED)

    assert [each["round"] for each in rounds(tmp_path)] == [0, 2]


def test_every_site_has_the_jobs_meta_and_its_log_by_nvflares_name(tell, tmp_path):
    tell(STARTED, *round_of(0, loss=0.5, answers=[("a", 0.5, 1.0)]))
    (tmp_path / "a" / "log.txt").write_text("of a script\n")

    for name in ("server", "a", "b"):
        meta = json.loads((tmp_path / name / "simulate_job" / "meta.json").read_text())
        assert meta == {**META, "job_clients": [{"name": "a"}, {"name": "b"}]}
    assert (tmp_path / "a" / "log_fl.txt").read_text() == "of a script\n"
    said = [line.split(" - ")[2:] for line in (tmp_path / "server" / "log_fl.txt").read_text().splitlines()]
    assert said == [
        ["INFO", "Round 0 started."],
        ["INFO", "Contribution from a ACCEPTED at round 0."],
        ["INFO", "Round 0 finished."],
    ]


def test_of_more_sites_than_nvflare_simulates_only_the_server_has_these_files(tell, tmp_path):
    sites = [f"site-{number}" for number in range(101)]
    tell(msgspec.structs.replace(STARTED, sites=sites), ENDED)

    assert len(json.loads((tmp_path / "server" / "simulate_job" / "meta.json").read_text())["job_clients"]) == 101
    assert not list(tmp_path.glob("site-*"))


def test_a_file_that_the_user_put_there_stays_as_it_is(tell, tmp_path):
    mine = {"a/log_fl.txt": "1", "server/log_fl.txt": "2", "server/simulate_job/metrics/round_metrics.jsonl": "3"}
    for name, text in mine.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    tell(STARTED, *round_of(0, loss=0.5), ENDED)

    assert {name: (tmp_path / name).read_text() for name in mine} == mine


def test_what_a_script_says_is_one_line_of_the_log_on_which_no_terminal_acts(tell, tmp_path):
    tell(STARTED, events.Notice(text="of a script:\n\x1b[2Jtwo"))

    assert (tmp_path / "server" / "log_fl.txt").read_text().endswith("of a script:\\n\\x1b[2Jtwo\n")
