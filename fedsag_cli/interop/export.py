"""Exports a job to NVFLARE: writes a new folder, completely or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fedsag_cli
from fedsag_cli.errors import JobError
from fedsag_cli.interop import writing
from fedsag_cli.interop.records import meta_of
from fedsag_cli.job import App, Job
from fedsag_cli.job.config import CLIENT_FILE, SERVER_FILE, files, placeholders
from fedsag_cli.job.config.files import Bounds
from fedsag_cli.job.meta import ALL
from fedsag_cli.job.templates.replace_folder import check_target, copy, exchange, new_folder_beside
from fedsag_cli.job.templates.settings import absolute
from fedsag_cli.workspace import SERVER

_PACKAGE = fedsag_cli.__name__


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """The folder that was written, and notes for the user."""

    folder: Path
    notes: Sequence[str]


@files.reading()
def export(job: Job, out: Path, *, force: bool = False) -> Exported:
    """Write `job` to the folder `out`, for NVFLARE 2.9. Raises JobError without writing anything."""
    out = files.real(absolute(out))
    if out.is_relative_to(files.real(job.folder)) or files.real(job.folder).is_relative_to(out):
        raise JobError(
            f"the job {job.folder} and {out} must not contain each other", hint="choose another folder to write to"
        )
    check_target(out, force=force, flag="OUT")
    exported = _ExportedJob(job)
    texts = dict(exported.texts())
    with new_folder_beside(out) as part:
        for path, text in texts.items():
            (part / "new" / path).parent.mkdir(parents=True, exist_ok=True)
            (part / "new" / path).write_bytes(text.encode())
        for path, source in exported.copies():
            copy(source, part / "new" / path)
        check_target(out, force=force, flag="OUT")  # a file may have been added in the meantime
        notes = [*exported.notes, *exchange(part, out)]
    return Exported(folder=out, notes=list(dict.fromkeys(notes)))


class _ExportedJob:
    """The texts and files of one exported job."""

    def __init__(self, job: Job) -> None:
        self._job = job
        app = job.app_for(SERVER)
        server = app.server(placeholders.nowhere(SERVER))
        clients = [app.client(placeholders.nowhere(site)) for app, site in _one_site_each(job)]
        self._facts = writing.job_facts(
            server.workflows,
            server.components,
            [executor.config.transfer_type for client in clients for executor in client.executors],
            [app.custom],
        )
        self.notes = [*server.notes, *(note for client in clients for note in client.notes)]

    def texts(self) -> Iterator[tuple[str, str]]:
        yield "meta.json", _json(meta_of(self._job))
        for app in self._job.apps.values():
            for stem, write in ((SERVER_FILE, writing.server), (CLIENT_FILE, writing.client)):
                config = app.written(stem, placeholders.nowhere(SERVER))
                if config is not None:
                    translated, notes = write(
                        config.values, self._facts, config.resolve, file=config.name, search=[app.custom]
                    )
                    self.notes.extend(notes)
                    yield f"{app.name}/config/{stem}.json", _json(translated)

    def copies(self) -> Iterator[tuple[str, Path]]:
        for app in self._job.apps.values():
            bounds = Bounds.of(self._job.folder, "the job")
            configs = {app.file(stem) for stem in (SERVER_FILE, CLIENT_FILE)}
            others = {name: file for name, file in files.below(app.folder, bounds) if file not in configs}
            yield from ((f"{app.name}/{name}", file) for name, file in others.items())
            alias = f"custom/{_PACKAGE}/"
            scripts = [
                file.read_bytes()
                for name, file in others.items()
                if file.suffix == ".py" and not name.startswith(alias)
            ]
            self.notes.extend(note for source in scripts for note in writing.script(source))
            if any(_PACKAGE.encode() in source for source in scripts):
                yield from self._alias(app.name, others)

    def _alias(self, app: str, others: Mapping[str, Path]) -> Iterator[tuple[str, Path]]:
        """The package fedsag_cli for the scripts of the job. A job that was exported before has it already."""
        package = f"custom/{_PACKAGE}"
        alias = {f"{package}/{file.relative_to(writing.ALIAS)}": file for file in writing.ALIAS.rglob("*.py")}
        alias |= {f"{package}/client/{file.name}": file for file in writing.HELPERS}
        taken = {path: file for path, file in others.items() if path.startswith((f"{package}/", f"{package}."))}
        if not taken:
            yield from ((f"{app}/{path}", file) for path, file in sorted(alias.items()))
        elif {path: file.read_bytes() for path, file in taken.items()} != {
            path: file.read_bytes() for path, file in alias.items()
        }:
            raise JobError(
                f"{app}/{package} has the name of the package that scripts import",
                hint="rename it, or remove it if an older fedsag exported it",
            )


def _one_site_each(job: Job) -> Iterator[tuple[App, str]]:
    for name, sites in job.meta.deploy_map.items():
        for site in [site for site in sites if site != SERVER][:1]:
            yield job.apps[name], "site-1" if site == ALL else site


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2) + "\n"  # ASCII, because a reader may decode it by the locale
