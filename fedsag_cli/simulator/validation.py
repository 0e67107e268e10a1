"""Checks a job without running it: `problems` finds all that `simulate` would refuse, and more than the first of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from fedsag_cli.errors import Gathering, JobError, system_errors
from fedsag_cli.interop import reading
from fedsag_cli.job import App, Job
from fedsag_cli.job.config import CLIENT_FILE, SERVER_FILE, placeholders
from fedsag_cli.job.problems import Problem, all_in, located
from fedsag_cli.job.templates.set_values import with_values
from fedsag_cli.simulator import imports
from fedsag_cli.simulator.options import Options
from fedsag_cli.simulator.planning import Planned, make_plan
from fedsag_cli.workspace import Workspace

_SITE = "site-1"  # the name with which an app is read that no site of the run has


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What the checks found. `planned` is None if there are problems; else `notes` are for the user."""

    problems: list[Problem]
    planned: Planned | None = None
    notes: list[str] = field(default_factory=list)


def problems(job: Path, options: Options) -> list[Problem]:
    """The problems in the files of the job in the folder `job`, in their order; none if it can be run.

    No process is started. Raises UsageError if an option is wrong, and JobError if there is no job in the folder.
    """
    with TemporaryDirectory(prefix="fedsag-") as folder:
        return checked(job, options, Workspace(Path(folder) / "ws")).problems


def checked(job: Path, options: Options, workspace: Workspace) -> Checked:
    """As `problems`, with the plan of a run in this workspace, to which nothing is written."""
    folder, apps = job.absolute(), dict[str, App]()
    try:
        read = Job.load(folder, reading.translate)
        apps.update(read.apps)
        planned = make_plan(with_values(read, options.sets), workspace, options)
    except JobError as error:
        if not apps and folder.is_dir():
            apps.update(Job.apps_in(folder, reading.translate))
        if not apps:
            raise
        errors = [*all_in(error), *_in_apps(apps)]
        return Checked(problems=located(_each_once(errors), folder, apps))
    return Checked(problems=[], planned=planned, notes=planned.notices)


@system_errors()
def validate(job: Path, options: Options) -> Checked:
    """As `problems`; if the files have none, the scripts and the server's components are tried too, in a copy.

    Raises RunError, too, if the system refuses the copy or a process.
    """
    with TemporaryDirectory(prefix="fedsag-") as folder, Workspace(Path(folder) / "ws") as workspace:
        found = checked(job, options, workspace)
        if found.planned is None:
            return found
        errors, notes = imports.tried(found.planned, workspace)
        return replace(
            found, problems=located(errors, job.absolute(), found.planned.apps), notes=[*found.notes, *notes]
        )


def _in_apps(apps: Mapping[str, App]) -> Iterator[JobError]:
    """The errors in the config files themselves, which a plan does not get to if meta.conf has an error."""
    for app in apps.values():
        with_all = Gathering()
        variables = placeholders.nowhere(_SITE)
        if app.file(SERVER_FILE):
            with_all.attempt(app.server, variables)
        if app.file(CLIENT_FILE):
            with_all.attempt(app.client, variables)
        try:
            with_all.check()
        except JobError as error:
            yield from all_in(error)


def _each_once(errors: list[JobError]) -> list[JobError]:
    return list({(error.file, error.at, error.message): error for error in errors}.values())
