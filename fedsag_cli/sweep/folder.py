"""The folder of a sweep: which runs it has, where they are, and what came of them.

F/sweep.json                     what was asked for; the same command again goes on with it
F/report.json  report.html       the results
F/001-lr=0.1-seed=1/             the workspace of each run
F/.fedsag/                       the lock, and the list of the files that fedsag made
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fedsag_cli.errors import WorkspaceError
from fedsag_cli.history.reading import has_run, read_workspace
from fedsag_cli.plan import read_plan
from fedsag_cli.report import Report
from fedsag_cli.sweep.results import NOT_RUN, SweepReport
from fedsag_cli.sweep.variations import Variation
from fedsag_cli.workspace import Workspace, write_json

FORMAT = 1
_REMOVE = "move that folder elsewhere, and its run is made again; or start the sweep anew with --force"
_GO_ON = (
    "give what it had, to go on; start it anew with --force; or choose another folder with -w, where --needed takes "
    "the runs that are done"
)


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What sweep.json has. `sets`, `seeds` and `options`: as given. `plan`: the identity of the first run's plan.

    `runs`: the names of their folders.
    """

    format: int = FORMAT
    job: str
    sets: list[str]
    seeds: list[int]
    options: dict[str, Any]
    plan: str
    runs: list[str]


class SweepFolder:
    """The folder, which one sweep at a time uses."""

    def __init__(self, root: Path) -> None:
        """Raises WorkspaceError if the path leads nowhere."""
        self._own = Workspace(root)

    @property
    def root(self) -> Path:
        return self._own.root

    @property
    def report_page(self) -> Path:
        return self._own.report_page

    def run(self, name: str) -> Path:
        return self.root / name

    def before(self) -> Asked | None:
        """The sweep that is there; None if there is none. Raises WorkspaceError if something else is."""
        try:
            if self._own.plan.exists():
                raise WorkspaceError(f"{self.root} has a run, and no sweep", hint="choose another folder with -w")
            found = msgspec.json.decode(self._own.sweep.read_bytes(), type=Asked)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise WorkspaceError(
                f"{self.root} cannot be read: {error.strerror}", hint="choose another folder with -w"
            ) from None
        except msgspec.DecodeError as error:
            raise WorkspaceError(
                f"{self._own.sweep} is not what a sweep wrote: {error}", hint="choose another folder with -w"
            ) from None
        if found.format != FORMAT:
            raise WorkspaceError(
                f"the sweep in {self.root} was begun by another version of fedsag",
                hint="choose another folder with -w; --force starts this one anew",
            )
        return found

    def take(self) -> None:
        """Raises WorkspaceError if another sweep uses it, or it cannot be written."""
        self._own.take()

    def release(self) -> None:
        self._own.release()

    def begin(self, asked: Asked) -> None:
        """Write down what was asked for. Raises WorkspaceError if a file of the user's is there, OSError."""
        self._own.reopen()
        self._own.claim(self._own.sweep, self._own.report, self._own.report_page)
        write_json(self._own.sweep, asked)

    def clear(self, before: Asked) -> None:
        """Remove what the sweep that was here made. The user's files stay. Raises WorkspaceError, OSError."""
        for name in before.runs:
            if self.run(name).is_dir():
                with Workspace(self.run(name)) as run:
                    run.take()
                    run.remove()
        self._own.clear()

    def finish(self, report: SweepReport) -> None:
        """Write the results. The paths of runs in this folder begin at it: the folder may be moved. Raises OSError."""
        replace = msgspec.structs.replace
        results = [replace(each, workspace=self._beginning_here(each.workspace)) for each in report.results]
        write_json(self._own.report, replace(report, results=results))
        self._own.settle()

    def state_of(self, name: str) -> tuple[str, Report | None]:
        """The status of a run, and its report; NOT_RUN and None if it has not begun. Raises WorkspaceError."""
        if not has_run(self.run(name)):
            return NOT_RUN, None
        report, status, _ = read_workspace(self.run(name))
        return status, report

    def check_runs(self, variations: Sequence[Variation], clients: Sequence[str]) -> None:
        """Raises WorkspaceError if a run that is not of this sweep is where one of its runs has its files."""
        for each in variations:
            file = Workspace(self.run(each.name)).plan
            try:
                plan = read_plan(file)
            except FileNotFoundError:
                continue
            except (OSError, msgspec.DecodeError) as error:
                raise WorkspaceError(f"{file} cannot be read: {error}", hint=_REMOVE) from None
            of_sweep = {"--set": list(each.words), "--seed": each.seed, "-c": list(clients)}
            there = {"--set": plan.overrides, "--seed": plan.seed, "-c": plan.names}
            for flag, value in of_sweep.items():
                if there[flag] != value:
                    raise WorkspaceError(
                        f"{file.parent} has a run that is not of this sweep: its {flag} is {_shown(there[flag])}, and "
                        f"not {_shown(value)}",
                        hint=_REMOVE,
                    )

    def _beginning_here(self, path: str) -> str:
        is_here = path and Path(path).is_relative_to(self.root)
        return str(Path(path).relative_to(self.root)) if is_here else path


def check_same(before: Asked, now: Asked, root: Path) -> None:
    """Raises WorkspaceError naming what is not as it was when the sweep in `root` began."""
    was, is_ = map(_parts, (before, now))
    for what in dict.fromkeys([*was, *is_]):
        if was.get(what) != is_.get(what):
            raise WorkspaceError(
                f"{what} of the sweep in {root} was {_shown(was.get(what))}, and is {_shown(is_.get(what))} now",
                hint=_GO_ON,
            )
    if before.plan != now.plan:
        raise WorkspaceError(
            f"the job has changed since the sweep in {root} began",
            hint=_GO_ON.replace("give what it had", "undo the change"),
        )


def _parts(asked: Asked) -> Mapping[str, Any]:
    return {"the job": asked.job, "--set": asked.sets, "--seeds": asked.seeds, **asked.options}


def _shown(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        shown = ", ".join(map(str, value[:5]))
        return f"{shown} and {len(value) - 5} more" if len(value) > 5 else shown or "none"
    return "none" if value is None else str(value)
