"""Events as lines of JSON, and the file they are written to."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from fedsag_cli import events
from fedsag_cli.events import AnyEvent, Event, Failure
from fedsag_cli.simulator.events_file import EventsFile, read_events

FAILURE = Failure(cause="it broke", where="/job/train.py:7", log="/w/log.txt", log_tail=["a", "b"], exit_code=-9)
VALUES = {
    int: 7,
    float: 0.1,
    str: 'é "quoted"\n\u2028',
    bool: True,
    list[str]: ["a", "b"],
    dict[str, str]: {"torch": "2"},
    events.Metrics: {"accuracy": 0.1, "loss": None},
    dict[str, events.Metrics]: {"a": {"accuracy": 0.1}},
    events.LogKind: "text",
    Mapping[str, float | str | None]: {"loss": 0.1, "name": "é", "nan": None},
    list[list[str | float | None]]: [["é", 0.1], ["b", None]],
    dict[str, Any]: {"chosen": ["a"], "n": 1},
    (float | None): 0.1,
    (int | None): 7,
    Failure: FAILURE,
    (Failure | None): FAILURE,
    (events.RoundFinished | None): None,
    (events.BestModel | None): events.BestModel(round_num=3, metric="accuracy", score=0.5),
}
KINDS = list(AnyEvent.__args__)


def example(kind):
    fields = msgspec.structs.fields(kind)
    return kind(**{field.name: VALUES[field.type] for field in fields if field.name != "at"})


def test_a_metric_that_is_no_finite_number_is_told_as_none():
    assert events.as_metrics({"a": 0.5, "b": float("nan"), "c": float("-inf")}) == {"a": 0.5, "b": None, "c": None}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_comes_back_from_its_line(kind):
    event = example(kind)
    line = events.to_line(event)

    assert events.from_line(line) == event
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert json.loads(line)["event"] == kind.__name__


def test_every_kind_there_is_can_be_read():
    assert set(KINDS) == set(Event.__subclasses__())


def test_an_event_knows_when_it_was():
    before = time.time()
    at = events.ServerReady().at

    assert before - 1 <= at <= time.time() + 1  # the clocks of the system differ a little


def test_an_event_cannot_be_changed():
    with pytest.raises(AttributeError):
        events.Notice(text="x").text = "y"


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[]", b'{"event":"Nobody","at":1}', b'{"at":1}', b'{"event":"Notice","at":1,"text":5}']
)
def test_what_is_no_event_is_a_decode_error(line):
    with pytest.raises(msgspec.DecodeError):
        events.from_line(line)


def test_the_events_file_has_each_event_at_once(tmp_path):
    path = tmp_path / "events.jsonl"
    file = EventsFile(path)
    told = [events.ServerReady(), events.Notice(text="x"), events.ClientReady(site="a")]
    seen = []
    for event in told:
        file.on(event)
        seen.append([events.from_line(line) for line in path.read_bytes().splitlines()])
    file.close()

    assert seen == [told[:1], told[:2], told]


def test_an_events_file_goes_on_after_what_is_there_without_a_line_that_was_cut_off(tmp_path):
    path = tmp_path / "events.jsonl"
    first, second = events.Notice(text="one", at=1.0), events.Notice(text="two", at=2.0)
    path.write_bytes(events.to_line(first) + b"a line of a stranger\n" + events.to_line(second)[:-5])

    assert read_events(path) == [first]
    file = EventsFile(path)
    file.on(second)
    file.close()

    assert read_events(path) == [first, second]


def test_the_kinds_are_named_in_words_a_program_can_rely_on():
    assert all(re.fullmatch(r"([A-Z][a-z]+){1,2}", kind.__name__) for kind in KINDS)


def test_the_time_of_an_event_goes_on_when_the_clock_is_set(monkeypatch):
    before = events.Notice(text="")
    monkeypatch.setattr(events.time, "time", lambda: 0.0)
    after = events.Notice(text="")

    assert 0 <= after.at - before.at < 3600
    assert after.at > 1_700_000_000


def test_another_process_of_the_run_has_the_same_time(monkeypatch):
    code = "from fedsag_cli import events; print(repr(events.STARTED))"
    env = os.environ | {"FEDSAG_STARTED_AT": "1000.5"}

    assert subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True).stdout == "1000.5\n"


def test_a_table_with_a_row_of_another_length_is_refused_where_it_is_made():
    with pytest.raises(ValueError, match="2 columns, and a row of 1 in the table 'Sizes'"):
        events.ResultTable(title="Sizes", columns=["a", "b"], rows=[["x", 1.0], ["y"]])
