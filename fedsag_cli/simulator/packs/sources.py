"""The files of the job that a run used: those in the job's folder, or else the copies in the run's workspace."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from fedsag_cli.errors import FedsagError, JobError, WorkspaceError
from fedsag_cli.interop import reading
from fedsag_cli.job import Job
from fedsag_cli.job.config import CLIENT_FILE, SERVER_FILE, placeholders
from fedsag_cli.job.meta import ALL
from fedsag_cli.job.templates.changes import settings
from fedsag_cli.job.templates.set_values import with_values
from fedsag_cli.plan import Plan
from fedsag_cli.record import sha256_of
from fedsag_cli.workspace import SERVER, WORKER, Workspace, files_in

_META = "meta"
_MOST_SHOWN = 5


class JobFiles(NamedTuple):
    """A folder with the job as the run used it, and the environment variables that its configs name.

    `note`: why it is not the job's own folder; empty if it is.
    """

    folder: Path
    environment: list[str]
    note: str = ""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan says of its job: the rest of a plan may be of another version."""

    job: str
    names: list[str]
    files: dict[str, str] = {}
    shown_settings: dict[str, Any] = {}
    overrides: list[str] = []

    @property
    def in_job(self) -> dict[str, str]:
        """The files of the job, by app and path."""
        return {name: digest for name, digest in self.files.items() if not name.startswith("/")}


def facts_of(plan: Plan) -> Facts:
    return Facts(
        job=plan.job,
        names=plan.names,
        files=plan.files,
        shown_settings=plan.shown_settings,
        overrides=plan.overrides,
    )


def copy_job(folder: Path | None, workspace: Workspace, plan: Plan, into: Path) -> JobFiles:
    """Copy the files that the run in the workspace used into a new folder in `into`.

    They come from the job's `folder`, if it is still what it was. Raises WorkspaceError if neither it nor the workspace
    has them all as they were.
    """
    facts = facts_of(plan)
    why = "the folder of the job is not known"
    if folder is not None:
        own = into / "own" / _fit_for_a_name(folder.name)
        why = _copied_or_why(lambda: _of_folder(Job.load(folder, reading.translate), facts), own, facts)
        if not why:
            return JobFiles(own, _environment(own, facts))
        why = f"the job {folder} is not what it was: {why}"
    copies = into / "copies" / _fit_for_a_name(plan.job)
    fault = _copied_or_why(lambda: _of_copies(workspace, plan, facts), copies, facts)
    if fault:
        raise WorkspaceError(
            f"{why}; and the copies of its files in {workspace.root} are not those of the run: {fault}",
            hint="undo the changes in the job",
        )
    return JobFiles(copies, _environment(copies, facts), why)


def check_unchanged(folder: Path, facts: Facts) -> None:
    """Raises JobError naming what in the job is not as the plan of its run says."""
    if changes := list(_changes_in(folder, facts)):
        raise JobError(f"the job is not that of the run: {_few(changes)}")


def _changes_in(folder: Path, facts: Facts) -> Iterator[str]:
    return _changes(_job(folder, facts), facts)


def _environment(folder: Path, facts: Facts) -> list[str]:
    return sorted(set(placeholders.environment(_job(folder, facts).written())))


def _job(folder: Path, facts: Facts) -> Job:
    return with_values(Job.load(folder, reading.translate), facts.overrides)


def _copied_or_why(found: Callable[[], Mapping[str, Path]], target: Path, facts: Facts) -> str:
    """Copy what `found` gives to `target`; why it is not the job of the run, or empty."""
    try:
        for name, source in found().items():
            place = target / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, place)
            place.chmod(0o755 if source.stat().st_mode & 0o100 else 0o644)
        return _few(list(_changes_in(target, facts)))
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    except FedsagError as error:
        return error.message


def _changes(job: Job, facts: Facts) -> Iterator[str]:
    if job.meta.name != facts.job:
        yield f"its name was {facts.job!r} and is {job.meta.name!r}"
    now = {name: sha256_of(path) for name, path, is_config in _app_files(job, facts) if not is_config}
    for name in sorted({*facts.in_job, *now}):
        if facts.in_job.get(name) != now.get(name):
            yield f"{name} {'is new' if name not in facts.in_job else 'is gone' if name not in now else 'has changed'}"
    before, after = _of_apps(facts.shown_settings), _of_apps(settings(job))
    for key in dict.fromkeys([*before, *after]):
        if before.get(key) != after.get(key):
            yield f"{key} was {before.get(key)!r} and is {after.get(key)!r}"


def _of_folder(job: Job, facts: Facts) -> Mapping[str, Path]:
    """The files by their paths in the job's folder."""
    found: dict[str, Path] = {}
    if job.meta_values:
        found[job.meta_file] = job.folder / job.meta_file
    return found | {str(path.relative_to(job.folder)): path for _, path, _ in _app_files(job, facts)}


def _app_files(job: Job, facts: Facts) -> Iterator[tuple[str, Path, bool]]:
    """The files of the apps that the clients and the server have, and the configs of the others.

    The name of each, by its app; its path; whether it is a config.
    """
    used = {job.app_for(name).name for name in [SERVER, *facts.names]}
    for app in job.apps.values():
        for path in files_in(app.folder):
            is_config = _is_config(path, app.folder)
            if app.name in used or is_config:
                yield f"{app.name}/{path.relative_to(app.folder)}", path, is_config


def _of_copies(workspace: Workspace, plan: Plan, facts: Facts) -> Mapping[str, Path]:
    """The files by their paths in a job's folder. Raises OSError, and JobError without a meta file that can be read."""
    file = workspace.job(SERVER) / "meta.json"
    try:
        meta = json.loads(file.read_bytes())
        apps = {app: list(sites) for app, sites in meta["deploy_map"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise JobError(f"{file} is not what the run wrote") from None
    meta_file = _meta_file(facts)
    found: dict[str, Path] = {meta_file: file} if meta_file else {}
    for app, sites in apps.items():
        place = next((name for name in [SERVER, *plan.names] if name in sites or ALL in sites), None)
        if place is None:
            continue
        root = workspace.app(WORKER if plan.has_workers and place != SERVER else place)
        for path in files_in(root):
            name = str(path.relative_to(root))
            if f"{app}/{name}" in facts.in_job or _is_config(path, root):
                found[f"{app}/{name}" if meta_file else name] = path
    return found


def _meta_file(facts: Facts) -> str:
    """The name of the job's meta file, whose forms can all hold JSON. Without one, the job's folder is its only app."""
    return next((key.partition(" ")[0] for key in facts.shown_settings if key.startswith(f"{_META}.")), "")


def _is_config(path: Path, app: Path) -> bool:
    """Whether the plan has what is in this file of an app, and so not its digest."""
    return path.parent == app / "config" and path.stem in (SERVER_FILE, CLIENT_FILE)


def _of_apps(shown: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without those of the meta file, of which a copy has more."""
    return {key: value for key, value in shown.items() if not key.startswith(f"{_META}.")}


def _fit_for_a_name(text: str) -> str:
    """The name of a folder."""
    is_fit = text.isprintable() and text not in ("", ".", "..") and "/" not in text and len(text.encode()) < 200
    return text if is_fit else "job"


def _few(changes: list[str]) -> str:
    more = f"; and {len(changes) - _MOST_SHOWN} more" if len(changes) > _MOST_SHOWN else ""
    return "; ".join(changes[:_MOST_SHOWN]) + more
