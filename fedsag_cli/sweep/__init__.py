"""A sweep: the runs of all variations of a job, a few at a time, with torch imported once for all of them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from fedsag_cli import history, pages
from fedsag_cli.errors import UsageError, system_errors
from fedsag_cli.history.finding import finished_with
from fedsag_cli.history.reading import FAILED, FINISHED, INTERRUPTED, STOPPED
from fedsag_cli.processes.local import can_fork
from fedsag_cli.processes.warm import WarmNursery
from fedsag_cli.report import Report
from fedsag_cli.simulator import environment
from fedsag_cli.simulator.options import FORK, Options
from fedsag_cli.simulator.signals import have_standard_streams, signals_told
from fedsag_cli.sweep import page
from fedsag_cli.sweep.checks import check, planned
from fedsag_cli.sweep.folder import Asked, SweepFolder, check_same
from fedsag_cli.sweep.one_run import Ended
from fedsag_cli.sweep.results import NOT_RUN, Result, SweepReport, result_of, summed_up, without_metric
from fedsag_cli.sweep.runner import Runner, Running, Task
from fedsag_cli.sweep.variations import Variation, columns, product, read_setting

FOLDER = Path("sweep_workspace")
"""The folder of a sweep for which the user names none."""

_SIGNALLED = 128
_SAME = {"-n": "num_clients", "-c": "clients", "--torch-threads": "threads", "--workers": "workers"}
"""The options that must be the same when a sweep goes on, by their flags."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What is asked for. `sets`: as `read_setting` takes them. `options`: of each run, without its seed and values.

    `needed`: whether a variation is left out that the database has as finished with the same plan. `force`: whether a
    sweep in the folder is started anew. `metric`, `lowest`: as in `summed_up`.
    """

    sets: Sequence[str] = ()
    seeds: Sequence[int] = (0,)
    jobs: int = 1
    options: Options = dataclasses.field(default_factory=Options)
    needed: bool = False
    force: bool = False
    metric: str = ""
    lowest: bool | None = None


class Progress:
    """How far a sweep is."""

    def __init__(self, total: int, jobs: int) -> None:
        self.total = total
        self.results: list[Result] = []
        self.running: Sequence[Running] = ()
        self._jobs = jobs
        self._took: list[float] = []

    @property
    def done(self) -> int:
        return sum(each.status == FINISHED for each in self.results)

    @property
    def failed(self) -> int:
        return len(self.results) - self.done

    def ended(self, result: Result, seconds: float | None) -> None:
        """`seconds`: how long its process was there; None if it was not run."""
        self.results.append(result)
        if seconds is not None and result.status == FINISHED:
            self._took.append(seconds)

    def left_s(self, now: float) -> float | None:
        """None if it is not known yet."""
        told = [(now - each.began) / each.share for each in self.running if each.share]
        known = self._took or told
        if not known:
            return None
        whole = sum(known) / len(known)
        rest = self.total - len(self.results) - sum(min(1.0, (now - each.began) / whole) for each in self.running)
        return max(0.0, rest * whole / min(self._jobs, max(1, self.total - len(self.results))))


class Watcher(Protocol):
    """Shows a sweep while it goes on."""

    def ended(self, result: Result, end: Ended | None, progress: Progress) -> None:
        """A run has ended; `end` is None if it was there before."""

    def look(self, progress: Progress) -> None:
        """Called after each change, and each second."""


class Swept(NamedTuple):
    """`signal`: the one that interrupted the sweep; 0 if none did. `notes`: what the user should know."""

    report: SweepReport
    folder: Path
    signal: int
    notes: list[str]


@system_errors()
def sweep(job: Path, folder: Path | None, settings: Settings, watcher: Watcher) -> Swept:
    """Run all variations of the job, or those that the sweep in `folder` has not run yet.

    Raises UsageError, JobError and WorkspaceError before a run begins. A run that fails does not end the sweep.
    """
    have_standard_streams()
    if settings.jobs < 1:
        raise UsageError(f"--jobs {settings.jobs}: it must be at least 1")
    read = [read_setting(word) for word in settings.sets]
    variations = product(read, settings.seeds)
    place = SweepFolder(folder or FOLDER)
    place.before()  # if the folder cannot be used, nothing is begun
    options = dataclasses.replace(settings.options, seed=variations[0].seed)
    with ExitStack() as ending:
        warm = None
        if options.launcher in (None, FORK) and can_fork():
            warm = WarmNursery(environment.for_processes(os.environ))  # it starts while the job is read
            ending.callback(warm.end)
        checked = check(job, read, options, place.run(variations[0].name), warm.prepare if warm else lambda _: None)
        asked = Asked(
            job=str(job.resolve()),
            sets=list(settings.sets),
            seeds=list(settings.seeds),
            options=_told(settings.options),
            plan=checked.plan,
            runs=[each.name for each in variations],
        )
        place.take()
        ending.callback(place.release)
        before = place.before()
        if before is not None and settings.force:
            place.clear(before)
        elif before is not None:
            check_same(before, asked, place.root)
            place.check_runs(variations, checked.clients)
        place.begin(asked)
        signals = ending.enter_context(signals_told())
        runner = Runner(job, warm, settings.jobs, place.release, signals)
        ending.callback(runner.end)
        made = _Sweep(job, place, variations, settings, watcher, runner)
        runner.run(made.tasks(), made.ended, made.look)
        report = summed_up(
            [made.results[each.name] for each in variations],
            job=checked.job,
            keys=columns(read),
            metric=settings.metric,
            lowest=settings.lowest,
        )
        notes = [*without_metric(report), *_written(place, report)]
        return Swept(report, place.root, signals.received[0] if signals.received else 0, notes)


class _Sweep:
    """Decides which runs are made, and keeps what came of them."""

    def __init__(
        self,
        job: Path,
        place: SweepFolder,
        variations: Sequence[Variation],
        settings: Settings,
        watcher: Watcher,
        runner: Runner,
    ) -> None:
        self._job, self._place, self._settings = job, place, settings
        self._watcher, self._runner = watcher, runner
        self._variations = variations
        self._progress = Progress(len(variations), settings.jobs)
        self.results = {
            each.name: Result(name=each.name, chosen=list(each.chosen), seed=each.seed) for each in variations
        }

    def tasks(self) -> Iterator[Task]:
        for each in self._variations:
            status, report = self._place.state_of(each.name)
            options = dataclasses.replace(self._settings.options, seed=each.seed, sets=each.words)
            root = self._place.run(each.name)
            if status == FINISHED and report is not None:
                self._was_there(each.name, report, root, history.number_of(root))
            elif not (status == NOT_RUN and self._settings.needed and self._is_known(each.name, options, root)):
                goes_on = status in (INTERRUPTED, STOPPED)
                yield Task(each.name, root, dataclasses.replace(options, resume=goes_on, force=not goes_on))

    def ended(self, task: Task, end: Ended, seconds: float) -> None:
        status, report = self._place.state_of(task.name)
        result = self.results[task.name]
        if report is not None:
            result = result_of(result, report, status)
        if status in (NOT_RUN, STOPPED) or (status == FINISHED) != (end.exit_code == 0):
            failed = INTERRUPTED if end.exit_code > _SIGNALLED else FAILED
            result = msgspec.structs.replace(result, status=failed)
        if end.exit_code:  # what an earlier report says may be of an earlier try
            result = msgspec.structs.replace(result, exit_code=end.exit_code, cause=end.cause)
        self._add(task.name, result, task.workspace, history.number_of(task.workspace), seconds, end)

    def look(self) -> None:
        self._progress.running = self._runner.running
        self._watcher.look(self._progress)

    def _is_known(self, name: str, options: Options, root: Path) -> bool:
        """Whether the database has a run that finished with the same plan."""
        found = finished_with(planned(self._job, options, root).identity)
        if found is not None and found.row is not None:
            self._was_there(name, found.report, Path(found.row.workspace), found.number)
        return found is not None

    def _was_there(self, name: str, report: Report, workspace: Path, number: int) -> None:
        result = msgspec.structs.replace(result_of(self.results[name], report, FINISHED), is_earlier=True)
        self._add(name, result, workspace, number, None, None)

    def _add(
        self, name: str, result: Result, workspace: Path, number: int, seconds: float | None, end: Ended | None
    ) -> None:
        self.results[name] = msgspec.structs.replace(result, run=number, workspace=str(workspace))
        self._progress.ended(self.results[name], seconds)
        self._watcher.ended(self.results[name], end, self._progress)


def _told(options: Options) -> dict[str, Any]:
    """Those of `_SAME` that were given."""
    values = {flag: getattr(options, name) for flag, name in _SAME.items()}
    return {flag: value for flag, value in values.items() if value not in (None, ())}


def _written(place: SweepFolder, report: SweepReport) -> list[str]:
    """Write report.json and the page. Returns what the user should know."""
    notes = []
    try:
        page.write(report, place.report_page)
    except OSError as failed:
        notes.append(f"{place.report_page} cannot be written: {failed.strerror}")
    if not pages.has_charts():
        notes.append(f"report.html has tables only; for charts: {pages.INSTALL}")
    place.finish(report)
    return notes
