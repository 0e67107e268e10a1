"""Runs as events write them, without a process: what is in a workspace when a run has ended."""

import json
from pathlib import Path

from fedsag_cli import events
from fedsag_cli.events import Event
from fedsag_cli.report import Report, ReportBuilder
from fedsag_cli.workspace import Workspace, write_json

SETTINGS = {"config_fed_server.conf num_rounds": 2, "config_fed_client.conf lr": 0.1}


def history(root: Path, *, accuracy=(0.5, 0.75), at=1000.0, ends=True, job="fruit", seed=7, **settings) -> list[Event]:
    """A run of two sites; `ends`: it could say how it ended."""
    started = events.RunStarted(
        at=at, job=job, workspace=str(root), sites=["site-1", "site-2"], slots=2, threads=1, seed=seed,
        launcher="fork", versions={"fedsag": "0.1.0"},
    )  # fmt: skip
    told: list[Event] = [
        started,
        events.RunSettings(at=at, template="sag_np", settings=SETTINGS | settings, changed=dict.fromkeys(settings)),
        events.ServerReady(at=at),
    ]
    for number, value in enumerate(accuracy):
        told += round_of(number, len(accuracy), value)
    if ends:
        told += [
            events.WorkflowFinished(at=at + 9, digest="d1", seeded_themselves=[]),
            events.RunFinished(at=at + 10, ok=True, exit_code=0, cause="every round is done"),
        ]
    return told


def round_of(number: int, num_rounds: int, accuracy: float) -> list[Event]:
    return [
        events.RoundStarted(
            workflow="w", round_num=number, first_round=0, num_rounds=num_rounds, sites=["site-1", "site-2"]
        ),
        events.RoundFinished(
            workflow="w", round_num=number, sites=["site-1", "site-2"], metrics={"accuracy": accuracy}, wait_s=0.0,
            aggregate_s=0.0, save_s=0.0,
        ),
    ]  # fmt: skip


def write_run(root: Path, told: list[Event]) -> Report:
    """The workspace of a run in which this was told, with all files as fedsag makes them."""
    with Workspace(root) as workspace:
        workspace.take()
        workspace.reopen()
        workspace.claim(workspace.events, workspace.report, workspace.plan)
        workspace.events.write_bytes(b"".join(map(events.to_line, told)))
        workspace.plan.write_text(json.dumps({"job": "fruit"}))
        builder = ReportBuilder()
        for event in told:
            builder.on(event)
        if any(isinstance(event, events.RunFinished) for event in told):
            write_json(workspace.report, builder.report)
        workspace.settle()
    return builder.report
