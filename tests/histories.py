"""The events of whole runs, as a server would tell them: any number of clients and slots, each with its own speed."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator

from fedsag_cli import events
from fedsag_cli.events import Event

START = 1000.0


def history(
    clients: int,
    *,
    slots: int,
    rounds: int = 4,
    drawn: int | None = None,
    work_s: Callable[[int, int], float] = lambda client, round_num: 1.0 + client % 3,
    start_s: float = 0.5,
    save_s: float = 0.1,
    metrics: Callable[[int, int], dict[str, float]] = lambda client, round_num: {"accuracy": 10.0 * round_num + client},
) -> list[Event]:
    """A run in which client k works `work_s(k, round)` seconds; its process takes `start_s` to start, once.

    `drawn`: so many take part in each round, `drawn` others in the next one. Workers do their tasks.
    """
    return list(_told(clients, slots, rounds, drawn, work_s, start_s, save_s, metrics))


def _told(clients, slots, rounds, drawn, work_s, start_s, save_s, metrics) -> Iterator[Event]:
    sites = [f"site-{number}" for number in range(1, clients + 1)]
    now = START
    yield events.RunStarted(
        at=now, job="j", workspace="/w", sites=sites, slots=slots, threads=1, seed=7, launcher="fork", versions={}
    )
    yield events.ServerReady(at=now)
    if drawn is not None:
        yield from (events.ProcessStarted(at=now, name=f"worker:{slot + 1}", pid=slot + 1) for slot in range(slots))
    yield events.WorkflowStarted(at=now, workflow="w", number=1, num_workflows=1)
    for round_num in range(rounds):
        named = {"workflow": "w", "round_num": round_num}
        of_round = list(enumerate(sites))
        if drawn is not None:
            first = round_num * drawn % (clients - drawn + 1)
            of_round = of_round[first : first + drawn]
        asked = [site for _, site in of_round]
        yield events.RoundStarted(at=now, first_round=0, num_rounds=rounds, sites=asked, **named)
        free = [now] * slots
        told: list[Event] = []
        for number, site in of_round:
            begins = heapq.heappop(free)
            if round_num == 0 and drawn is None:
                told.append(events.ProcessStarted(at=begins, name=site, pid=number + 1))
                begins += start_s
                told.append(events.ClientReady(at=begins, site=site))
            ends = begins + work_s(number, round_num)
            told.append(events.TaskSent(at=begins, site=site, task="train", size=1, **named))
            told.append(events.ReplyArrived(at=ends, site=site, task="train", **named))
            heapq.heappush(free, ends)
        told.sort(key=lambda event: event.at)
        yield from told
        now = max(event.at for event in told)
        measured = {site: metrics(number, round_num) for number, site in of_round}
        for site in asked:
            yield events.ReplyAccepted(
                at=now, site=site, task="train", metrics=measured[site], num_steps=1, size=1, work_s=1.0, **named
            )
        now += save_s
        means = {name: sum(each[name] for each in measured.values()) / len(asked) for name in measured[asked[0]]}
        yield events.RoundFinished(
            at=now, sites=asked, metrics=means, by_site=measured, wait_s=1.0, aggregate_s=0.0, save_s=save_s, **named
        )
    yield events.WorkflowFinished(at=now, digest="d", seeded_themselves=[])
    yield events.RunFinished(at=now, ok=True, exit_code=0, cause="every round is done", report="/w/report.json")
