"""Runs a baseline of a federated run, and puts its result into the report and the page of that run."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedsag_cli import foreign, history, pages
from fedsag_cli.errors import FedsagError, Interrupted, OutOfTime, RunError, system_errors
from fedsag_cli.events import Observer
from fedsag_cli.plan import read_plan
from fedsag_cli.report import BaselineReport, Report
from fedsag_cli.report.baselines import outcome, replaced
from fedsag_cli.report.places import relative
from fedsag_cli.simulator import simulate
from fedsag_cli.simulator.baselines import CENTRALISED, POOLED, is_begun, workspace_of
from fedsag_cli.simulator.options import Baseline, Options, gpu_groups
from fedsag_cli.simulator.time_limit import time_limit
from fedsag_cli.workspace import SERVER, Workspace, write_json

_CONTINUE = "the federated run is done: the same command with --resume goes on with its baselines"


@contextlib.contextmanager
def held(federated: Report) -> Iterator[Workspace]:
    """The workspace of a run that has ended: in this block, no other run can use it. Raises WorkspaceError."""
    with Workspace(Path(federated.workspace)) as workspace:
        workspace.take()
        yield workspace


@system_errors()
def run_baseline(
    kind: str, job: Path, federated: Report, options: Options, workspace: Workspace, observers: Sequence[Observer] = ()
) -> BaselineReport:
    """Run one baseline of the run that the report `federated` is of, and add its result to that report.

    `options` are those of that run; with `resume`, a baseline of the same run is continued. `workspace` is that run's,
    and is `held`. Raises Interrupted, OutOfTime if the time is over before the baseline begins, and RunError, with the
    `report` of the baseline, if it failed.
    """
    place = workspace_of(workspace.root, kind)
    try:
        if limit := time_limit(options.max_time):
            limit.check()
    except OutOfTime as over:
        over.hint = f"{_CONTINUE}, if the job is unchanged"
        raise
    try:
        report = simulate(job, place, _options(kind, federated, options, Workspace(place)), observers)
    except Interrupted as interrupted:
        interrupted.hint = _CONTINUE
        raise
    except FedsagError as error:
        failed = error.report if isinstance(error.report, Report) else Report(workspace=str(place), cause=error.message)
        _add(federated, outcome(failed, kind, history.number_of(place)), workspace)
        told = RunError(f"the baseline {kind!r} failed: {error.message}", hint=f"{_CONTINUE}, if the job is unchanged")
        told.report, told.details = error.report, error.details
        raise told from error
    made = outcome(report, kind, history.number_of(place))
    _add(federated, made, workspace)
    return made


def _options(kind: str, federated: Report, options: Options, place: Workspace) -> Options:
    """`force`: that no rounds of another run are lost was checked before the federated run."""
    known = read_plan(Workspace(Path(federated.workspace)).plan)
    rounds = [each for each in federated.rounds if each.is_whole and each.workflow == federated.rounds[0].workflow]
    own = dataclasses.replace(
        options,
        num_clients=None,
        clients=federated.sites,
        max_clients=None,
        sets=options.sets or known.overrides,
        seed=federated.seed,
        resume=options.resume and is_begun(place, known, kind),
        force=True,
        at=None,
        debug="",
        baselines=(),
        baseline=Baseline(kind=kind, num_rounds=len(rounds)),
    )
    if kind != CENTRALISED:
        return own
    trained = sum(len(each.asked) for each in rounds) / len(federated.sites)  # of all clients, if all took part
    return dataclasses.replace(
        own,
        clients=[POOLED],
        slots=1,
        gpus=f"[{gpu_groups(options.gpus)[0]}]" if options.gpus else None,
        follow=[name for name in options.follow if name == SERVER],
        baseline=Baseline(kind=kind, num_rounds=max(1, round(trained))),
    )


def _add(federated: Report, made: BaselineReport, place: Workspace) -> None:
    """Add a baseline to the report, and write this and its page again. Raises WorkspaceError, OSError."""
    replaced(federated, made)
    place.reopen()
    place.claim(place.report, place.report_page)
    shown = foreign.masked(relative(federated))
    write_json(place.report, shown)
    number, parent = history.number_of(place.root), history.number_called(shown.parent)
    pages.write(shown, place.events, place.report_page, number, parent)
    place.settle()
