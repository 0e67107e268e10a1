"""The JSON Schemas: they are what the structs say, and what is written is as they say.

The runs of `tests/whole/test_catalog.py` and `tests/whole/test_ci.py` are held against them too.
"""

import json

import msgspec
import pytest
from finished_runs import history, write_run
from reports import a_round
from written import faults, faults_of_line, schema, validator

from fedsag_cli import events, report
from fedsag_cli.events import AnyEvent, Failure
from fedsag_cli.report import BestReport, PrivacyReport, Report, SiteFailure, TableReport, ValidationReport
from fedsag_cli.schemas import FOLDER, encoded, schemas

FAILURE = Failure(cause="it broke", where="train.py:7", log="/w/log.txt", log_tail=["a"], exit_code=-9)
NAMES = ["report", "events"]


def test_the_files_are_what_the_structs_say():
    """If not: scripts/schemas writes them again. Has a field gone, or another meaning? Then raise FORMAT too."""
    made = {name: encoded(each) for name, each in schemas().items()}

    assert {path.name: path.read_bytes() for path in FOLDER.glob("*.json")} == made


@pytest.mark.parametrize("name", NAMES)
def test_each_is_a_schema_and_says_its_version(name):
    version = {"report": report.FORMAT, "events": events.FORMAT}[name]
    assert schema(name)["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema(name)["$id"] == f"urn:fedsag:{name}:{version}"
    assert schema(name)["title"].endswith(f", version {version}")


def test_every_kind_of_event_has_its_own_schema():
    assert schema("events")["anyOf"] == [{"$ref": f"#/$defs/{kind.__name__}"} for kind in AnyEvent.__args__]


def test_a_run_as_its_files_tell_it_is_as_the_schemas_say(tmp_path):
    write_run(tmp_path / "done", history(tmp_path / "done"))
    write_run(tmp_path / "odd", history(tmp_path / "odd", accuracy=(None, 0.5)))

    assert faults(tmp_path / "done") == faults(tmp_path / "odd") == []


def test_a_report_with_everything_in_it_is_as_the_schema_says():
    full = Report(
        rounds=[
            a_round(0, {"site-1": {"accuracy": 0.5}}, failed={"site-2": FAILURE}, num_steps={"site-1": 8.0},
                    privacy=PrivacyReport(epsilon=None, delta=1e-5, mechanism="m"), aggregate={"chosen": ["site-1"]})
        ],
        validations=[ValidationReport(round_num=1, metrics={"accuracy": None}, failed={"site-2": FAILURE})],
        tables=[TableReport(title="t", columns=["a", "b", "c"], rows=[["x", 0.5, None]])],
        best=BestReport(round_num=1, metric="accuracy", score=0.5),
        failures={"site-2": SiteFailure(round_num=None, task="", failure=FAILURE)},
        settings={"config_fed_server.conf x": [1, "a", None, {"b": True}]},
    )  # fmt: skip

    assert not list(validator("report").iter_errors(msgspec.to_builtins(full)))


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2}, {"format": "1"}, {"ok": "yes"}, {"rounds": [{}]}, {"best": 0.5}, {"seed": 1.5}, {"cause": None},
        {"final_metrics": {"accuracy": "high"}},
    ],
)  # fmt: skip
def test_a_report_that_is_otherwise_is_refused(change):
    assert validator("report").is_valid(msgspec.to_builtins(Report()))

    assert not validator("report").is_valid(msgspec.to_builtins(Report()) | change)


@pytest.mark.parametrize("field", Report.__struct_fields__)
def test_a_report_that_lacks_any_field_is_refused(field):
    lacks = msgspec.to_builtins(Report())
    del lacks[field]

    assert not validator("report").is_valid(lacks)


@pytest.mark.parametrize(
    "change", [{"event": "Nothing"}, {"event": None}, {"format": 0}, {"sites": "site-1"}, {"at": "noon"}]
)
def test_an_event_that_is_otherwise_is_refused(tmp_path, change):
    started = json.loads(events.to_line(history(tmp_path)[0]))
    assert validator("events").is_valid(started)

    assert not validator("events").is_valid(started | change)


def test_an_error_of_a_command_is_as_the_schema_of_events_says():
    failed = events.CommandFailed(message="no", details=["a"], exit_code=2)

    assert faults_of_line(events.to_line(failed).decode()) == []
