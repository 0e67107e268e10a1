"""The live view, as a terminal shows it."""

from __future__ import annotations

import re
from collections import Counter

import msgspec
import pytest
from histories import START, history
from hypothesis import given, settings
from hypothesis import strategies as st
from terminals import Terminal

from fedsag_cli import events
from fedsag_cli.cli import display
from fedsag_cli.cli.clients import Clients
from fedsag_cli.cli.live import Progress
from fedsag_cli.cli.views import LiveView
from fedsag_cli.events import Failure

LOG = "epoch 3: loss 0.25 " + "日本語 and a very long line of a log " * 8


def no_log(site: str) -> str:
    return ""


def frames(told, moments, columns, rows, monkeypatch, last_line=no_log):
    """What the terminal shows at each moment of the run; it must not have scrolled."""
    terminal = Terminal(columns, rows).use(monkeypatch)
    progress = Progress()
    left = list(told)
    clock = [START]
    screen = display.Screen(lambda width, height: progress.rows(clock[0], width, height, last_line))
    for moment in moments:
        while left and left[0].at <= moment:
            progress.on(left.pop(0))
        clock[0] = moment
        screen._write(screen._drawn())
        assert not terminal.scrolled_out
        assert (terminal.screen.cursor.x, terminal.screen.cursor.y) == (0, 0)  # whatever the size becomes: found again
        yield terminal.shown


def at(told, moment, columns=80, rows=24, *, monkeypatch, last_line=no_log) -> list[str]:
    [shown] = frames(told, [moment], columns, rows, monkeypatch, last_line)
    return shown


@pytest.mark.parametrize("clients", [1, 2, 16, 200])
@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (200, 50), (40, 10), (12, 3), (5, 1)])
def test_every_frame_fits_the_terminal_and_none_scrolls_it(monkeypatch, clients, columns, rows):
    told = history(clients, slots=8, rounds=3, metrics=lambda client, round_num: {"日本語" * 9: 1e-5, "loss": -1.0})
    moments = [START + step / 2 for step in range(int(2 * (told[-1].at - START)) + 2)]

    for shown in frames(told, moments[:: max(1, len(moments) // 8)], columns, rows, monkeypatch, lambda site: LOG):
        assert len(shown) == rows


def test_two_clients_are_shown_whole(monkeypatch):
    """Round 2 begins at 8.2 s: each round takes 4 s and 0.1 s more, the first half a second for the processes."""
    told = history(2, slots=2, rounds=4, work_s=lambda client, round_num: 1.0 + 3.0 * client, start_s=0.0)

    shown = at(told, START + 10.2, monkeypatch=monkeypatch, last_line=lambda site: f"log of {site}")

    assert re.sub("[━─]+", "━─", "\n".join(shown).rstrip()).splitlines() == [
        "round 2 (last: 3)  ━─   62%     0:10  about 0:06 left",
        "round 1: accuracy 10.5 ▁█",
        "2 clients: 1 working, 1 answered",
        "slowest: site-2, 2.0 s so far, usually 4.0 s",
        "  site-1  answered             1.0 s  usually 1.0 s  accuracy 10 ▁█",
        "  site-2  working on train     2.0 s  usually 4.0 s  accuracy 11 ▁█",
        "  site-1 | log of site-1",
        "  site-2 | log of site-2",
    ]


def test_sixteen_clients_are_shown_one_by_one_with_the_log_of_the_slowest(monkeypatch):
    told = history(16, slots=4, work_s=lambda client, round_num: 9.0 if client == 2 else 1.0, start_s=0.0)

    shown = at(told, START + 2.5, monkeypatch=monkeypatch, last_line=lambda site: f"log of {site}")

    states = [line.split()[1] for line in shown[3:19]]
    assert states == ["answered"] * 2 + ["working"] + ["answered"] * 4 + ["working"] * 3 + ["waiting"] * 6
    assert all("waiting for a slot" in line for line in shown[13:19])
    assert shown[1] == "16 clients: 4 working, 6 answered, 6 waiting for a slot"
    assert shown[2] == "slowest: site-3, 2.5 s so far"
    assert shown[19] == "  site-3 | log of site-3"


def test_counts_that_do_not_fit_a_narrow_terminal_go_on_in_the_next_row(monkeypatch):
    told = history(16, slots=4, work_s=lambda client, round_num: 1.0, start_s=0.0)

    shown = at(told, START + 1.5, 20, 10, monkeypatch=monkeypatch)

    assert [line.split(":")[0] for line in shown[1:3]] == ["16 clients", "  # 4 answered,"]
    assert "> 4" in shown[1]


def test_two_hundred_clients_are_a_map_and_those_that_work(monkeypatch):
    told = history(200, slots=10, work_s=lambda client, round_num: 50.0 if client == 4 else 1.0, start_s=0.0)

    shown = at(told, START + 3.5, monkeypatch=monkeypatch, last_line=lambda site: f"log of {site}")

    signs = "".join(line.strip() for line in shown[3:6])
    assert signs == "####>" + "#" * 23 + ">" * 9 + "." * 163
    assert shown[1] == "200 clients: > 10 working, # 27 answered, . 163 waiting for a slot"
    assert "slowest: site-5, 3.5 s so far" in shown[2]
    assert shown[6].startswith("  site-5   working on train     3.5 s")
    assert [line.split()[0] for line in shown[6:16]] == ["site-5", *(f"site-{number}" for number in range(29, 38))]


def test_a_wide_terminal_has_the_newest_line_of_each_log_beside_its_client(monkeypatch):
    told = history(2, slots=2, start_s=0.0)

    shown = at(told, START + 0.5, 200, 50, monkeypatch=monkeypatch, last_line=lambda site: f"log of {site}")

    assert [line.split("  ")[-1] for line in shown if "working on" in line] == ["log of site-1", "log of site-2"]


def test_a_terminal_that_changes_its_size_keeps_the_lines_above_and_one_frame(monkeypatch):
    told = history(16, slots=4, rounds=2)
    terminal = Terminal(80, 24).use(monkeypatch)
    progress = Progress()
    for event in told[:40]:
        progress.on(event)
    screen = display.Screen(lambda width, height: progress.rows(START + 2, width, height, no_log))
    screen.line("a line above")

    for columns, rows in [(80, 24), (60, 24), (100, 30), (30, 40)]:
        terminal.resize(columns, rows)
        screen._write(screen._drawn())

        assert terminal.shown[0] == "a line above"
        assert sum("round 0 (last" in line for line in terminal.shown) == 1
        assert sum("site-7" in line for line in terminal.shown) == 1


def test_a_client_is_shown_as_what_it_is(monkeypatch):
    sites = ["a", "b", "c", "d", "e"]
    named = {"task": "train", "round_num": 0}
    told = [
        events.RunStarted(
            job="j", workspace="/w", sites=sites, slots=4, threads=1, seed=7, launcher="fork", versions={}, at=0
        ),
        events.RoundStarted(round_num=0, first_round=0, num_rounds=2, sites=sites[:4], at=1),
        *(events.TaskSent(site=site, size=1, at=1, **named) for site in "abc"),
        events.ReplyArrived(site="a", at=2, **named),
        events.ReplyFailed(site="b", failure=Failure(cause="boom"), at=2, **named),
        events.NotAwaited(site="c", at=2, **named),
        events.ProcessStarted(name="d", pid=1, at=2),
    ]
    assert states(told) == {"a": "answered", "b": "failed", "c": "not waited for", "d": "starting", "e": "not started"}

    told += [events.RoundStarted(round_num=1, first_round=0, num_rounds=2, sites=sites, at=3)]
    assert states(told) == {
        "a": "waiting",
        "b": "waiting",
        "c": "on an earlier task",
        "d": "starting",
        "e": "not started",
    }

    gone = events.ProcessExited(name="b", exit_code=1, at=4)
    late = events.ReplyLate(site="c", at=4, **named)
    again = events.RoundStarted(round_num=2, first_round=0, num_rounds=3, sites=sites, at=5)
    assert [states([*told, gone, late, again])[site] for site in "bc"] == ["failed", "waiting"]


def test_who_waits_for_its_turn_while_a_slot_is_free_does_not_wait_for_a_slot():
    sites = ["a", "b", "c"]
    told = [
        events.RunStarted(
            job="j", workspace="/w", sites=sites, slots=2, threads=1, seed=7, launcher="fork", versions={}, at=0
        ),
        *(events.ProcessStarted(name=site, pid=1, at=0) for site in sites),
        *(events.ClientReady(site=site, at=0) for site in sites),
        events.RoundStarted(round_num=0, first_round=0, num_rounds=2, sites=sites, at=1),
        events.TaskSent(site="a", task="train", round_num=0, size=1, at=1),
    ]
    assert states(told) == {"a": "working", "b": "waiting", "c": "waiting"}

    second = events.TaskSent(site="b", task="train", round_num=0, size=1, at=1)
    assert states([*told, second]) == {"a": "working", "b": "working", "c": "waiting for a slot"}


def states(told) -> dict[str, str]:
    progress = Progress()
    for event in told:
        progress.on(event)
    clients = progress._clients
    return {client.site: clients.state_of(client) for client in clients.all}


def test_before_the_server_is_ready_the_view_says_what_starts_and_has_no_row_for_each_client(monkeypatch):
    run_started, ready, *_ = history(16, slots=4)
    begun = msgspec.structs.replace(run_started, versions={"torch": "2.9"})
    ready = msgspec.structs.replace(ready, at=START + 4)

    importing, starting = (
        at([begun, ready], START + seconds, monkeypatch=monkeypatch, last_line=lambda site: "") for seconds in (3, 5)
    )

    assert importing[:3] == ["starting: importing torch …  0:03", "16 clients: 16 not started", ""]
    assert starting[0] == "starting …  0:05"


def test_the_answers_of_a_cross_site_evaluation_are_no_lines_above_the_view(monkeypatch):
    """Sixteen clients with two models each, and the server's two, would be 544 lines; the end has their table."""
    view, said = LiveView(), []
    monkeypatch.setattr(view.screen, "line", said.append)
    named = {"task": "validate", "metrics": {"accuracy": 1.0}, "num_steps": 1.0, "size": 1, "work_s": 0.1}

    for owner in ("site-2", ""):
        view.on(events.ReplyAccepted(site="site-1", round_num=0, model_owner=owner, **named))

    assert said == ["site-1 answered validate in 0.1 s, accuracy 1"]


def test_a_task_after_the_last_round_is_named(monkeypatch):
    told = [event for event in history(2, slots=2, rounds=1) if event.at < START + 3]
    sent = events.TaskSent(site="site-1", task="validate", round_num=1, size=1, at=START + 3)

    shown = at([*told, sent], START + 4, monkeypatch=monkeypatch)

    assert shown[0] == "validate, after the last round …  0:04"


def test_where_the_encoding_has_no_bars_there_are_signs_of_the_same_width(monkeypatch):
    terminal = Terminal(80, 24, encoding="latin-1").use(monkeypatch)
    progress = Progress()
    for event in history(2, slots=2, rounds=4)[:30]:
        progress.on(event)
    screen = display.Screen(lambda width, height: progress.rows(START + 5, width, height, no_log))

    screen._write(screen._drawn())

    assert re.match(r"round 2 \(last: 3\)  #+-+   75%", terminal.shown[0])
    assert not {"?", "\\"} & set("".join(terminal.shown))


def test_of_several_workflows_the_name_stands_in_the_head_as_far_as_there_is_room(monkeypatch):
    told = history(2, slots=2, rounds=2)
    second = events.WorkflowStarted(workflow="a_name_of_many_words", number=2, num_workflows=2, at=START)

    wide, narrow = (
        at([*told[:2], second, *told[3:12]], START + 2, columns, monkeypatch=monkeypatch)[0] for columns in (100, 60)
    )

    assert wide.startswith("a_name_of_many_words: round 0 (last: 1)  ━━")
    assert narrow.startswith("round 0 (last: 1)  ━━")
    assert "0:02" in narrow


def test_of_ten_thousand_clients_those_of_the_round_are_counted_and_those_at_work_are_shown(monkeypatch):
    told = history(10_000, slots=4, drawn=100, work_s=lambda client, round_num: 30.0 if client % 100 == 7 else 1.0)
    of_round = [event for event in told if isinstance(event, events.RoundStarted)][1]

    shown = at(told, of_round.at + 10.0, monkeypatch=monkeypatch, last_line=lambda site: f"log of {site}")

    assert re.match(r"round 1 \(last: 3\)", shown[0])
    assert shown[2] == "10,000 clients, 100 in this round: > 4 working, # 31 answered,"
    assert shown[3] == "  . 65 waiting for a slot"
    assert shown[4].startswith("slowest: site-")
    assert "".join(line.strip() for line in shown[5:7]).count(">") == 4
    assert len([line for line in shown if "working on train" in line]) == 4


def test_all_of_ten_thousand_clients_at_once_are_counts_and_those_at_work(monkeypatch):
    told = history(10_000, slots=4, rounds=1, start_s=0.0)

    shown = at(told, START + 20.5, 120, 40, monkeypatch=monkeypatch)

    assert re.match(r"10,000 clients: 4 working, \d+ answered, 9,9\d\d waiting for a slot", shown[1])
    assert len([line for line in shown if "working on train" in line]) == 4
    assert not [line for line in shown if "####" in line]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_the_counts_are_those_of_the_clients_whatever_happens(data):
    sites = [f"site-{number}" for number in range(8)]
    clients = Clients()
    clients.on(msgspec.structs.replace(history(8, slots=3)[0], sites=sites))
    kinds = [
        lambda site, at: events.ProcessStarted(name=site, pid=1, at=at),
        lambda site, at: events.ClientReady(site=site, at=at),
        lambda site, at: events.TaskSent(site=site, task="train", round_num=0, size=1, at=at),
        lambda site, at: events.ReplyArrived(site=site, task="train", round_num=0, at=at),
        lambda site, at: events.ReplyFailed(site=site, task="train", round_num=0, failure=Failure(cause="boom"), at=at),
        lambda site, at: events.NotAwaited(site=site, task="train", round_num=0, at=at),
        lambda site, at: events.ReplyLate(site=site, task="train", at=at),
        lambda site, at: events.ClientStopped(site=site, failure=Failure(cause="boom"), at=at),
        lambda site, at: events.ProcessExited(name=site, exit_code=1, at=at),
        lambda site, at: events.ProcessExited(name=site, exit_code=0, at=at),
    ]
    for step in range(data.draw(st.integers(1, 60))):
        at = step // 3  # several things happen at the same time
        if data.draw(st.integers(0, 7)) == 0:
            drawn = data.draw(st.lists(st.sampled_from(sites), min_size=1, unique=True))
            clients.on(events.RoundStarted(round_num=0, first_round=0, num_rounds=9, sites=drawn, at=at))
        else:
            clients.on(data.draw(st.sampled_from(kinds))(data.draw(st.sampled_from(sites)), at))

        assert +clients.counts() == Counter(map(clients.state_of, clients.all))
        assert +clients.counts(asked=True) == Counter(map(clients.state_of, clients.asked))
        assert {client.site for client in clients.working} == {c.site for c in clients.all if c.state == "working"}
        since = [client.since for client in clients.working]
        assert since == sorted(since)


def test_a_client_of_which_nothing_was_told_is_nothing_but_a_name():
    progress = Progress()
    for event in history(10_000, slots=4, drawn=20, rounds=2):
        progress.on(event)
        progress.rows(event.at, 80, 24, no_log)

    assert len(progress._clients._by_site) == 40
