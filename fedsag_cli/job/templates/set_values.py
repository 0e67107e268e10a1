"""Applies `--set KEY=VALUE`: values of a job's config files are replaced for one run. No file is changed.

A word is `KEY=VALUE`, or `KEY-`, which removes the key, with the keys and values of `job create -f`. If several files
know a key, the word names the file: `FILE:KEY=VALUE`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedsag_cli.errors import JobError, nearest
from fedsag_cli.job import App, Job
from fedsag_cli.job.config import CLIENT_FILE, SERVER_FILE, files
from fedsag_cli.job.meta import Meta
from fedsag_cli.job.section import Section
from fedsag_cli.job.templates.draft import FileNames
from fedsag_cli.job.templates.overrides import Override, apply, known_names, knows

_WITH_FILE = re.compile(r'(?P<file>[^:="]+\.(?:conf|json|yml|yaml)):(?P<rest>.*)', re.DOTALL)
_OF_THE_FOLDER = ("name", "deploy_map")  # they say which files the job has


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A config file of the job. `path`: in the job; `short`: as users name it; `search`: folders with its modules."""

    path: str
    values: Mapping[str, Any]
    app: App | None = None  # None: the file is meta.conf
    stem: str = ""
    short: str = ""

    @property
    def search(self) -> Sequence[Path]:
        return [self.app.custom] if self.app else []

    @property
    def is_meta(self) -> bool:
        return self.app is None


@files.reading()
def with_values(job: Job, words: Sequence[str]) -> Job:
    """The job with the values that `words` set; a later word wins. The `job` itself must not be used any more.

    Raises JobError naming the word, and the nearest key that there is.
    """
    if not words:
        return job
    found = _files(job)
    names = FileNames([file.path for file in found], list(job.apps))
    overrides: dict[str, list[Override]] = {}
    changed: dict[str, dict[str, Any]] = {}
    for word in words:
        try:
            file, override = _placed(word, found, names)
            overrides.setdefault(file.path, []).append(override)
            changed[file.path] = _applied(file, overrides[file.path])  # at once: an error is told with its word
        except JobError as error:
            raise JobError(f"--set {word}: {error.message}", hint=error.hint) from None
    for file in found:
        if file.path in changed:
            job = _replaced(job, file, changed[file.path])
    return job


def _files(job: Job) -> list[_File]:
    found = []
    for app in job.apps.values():
        for stem in (SERVER_FILE, CLIENT_FILE):
            if (path := app.file(stem)) is not None:
                name = f"{app.name}/{path.relative_to(app.folder)}"
                found.append(_File(path=name, values=app.configs.read(stem).values, app=app, stem=stem))
    if job.meta_values:
        found.append(_File(path=job.meta_file, values=job.meta_values))
    names = FileNames([file.path for file in found], list(job.apps))
    return [replace(file, short=names.short(file.path)) for file in found]


def _placed(word: str, found: Sequence[_File], names: FileNames) -> tuple[_File, Override]:
    """The file that a word is for, and what it sets there. Raises JobError."""
    if named := _WITH_FILE.fullmatch(word):
        try:
            path = names.find(named["file"])
        except JobError as error:
            raise JobError(error.message.removeprefix("-f "), hint=error.hint) from None
        file = next(each for each in found if each.path == path)
        override = Override.read(named["rest"], file.short)
    else:
        override = Override.read(word, "the job")
        file = _that_knows(override, found)
    if file.is_meta and (key := re.split(r"[.\[]", override.key.strip('"'))[0]) in _OF_THE_FOLDER:
        raise JobError(f"{file.short}: {key} cannot be set for one run", hint="change it in the job")
    return file, override


def _that_knows(override: Override, found: Sequence[_File]) -> _File:
    """The one config file that knows the key; the meta file only if no other does."""
    knowing = [each for each in found if knows(each.values, override, file=each.short, search=each.search)]
    knowing = [each for each in knowing if not each.is_meta] or knowing
    if not knowing:
        every = {name for each in found for name in known_names(each.values, file=each.short, search=each.search)}
        raise JobError(f"the job has no key {override.key!r}", hint=nearest(override.key, sorted(every)))
    if len(knowing) > 1:
        both = ", ".join(each.short for each in knowing)
        raise JobError(
            f"{override.key!r} is a key of {both}", hint=f"say which: {knowing[0].short}:{override.key}=VALUE"
        )
    return knowing[0]


def _applied(file: _File, overrides: Sequence[Override]) -> dict[str, Any]:
    changed = copy.deepcopy(dict(file.values))
    apply(changed, overrides, file=file.short, search=file.search)
    return changed


def _replaced(job: Job, file: _File, values: dict[str, Any]) -> Job:
    if file.app is None:
        return replace(job, meta=Meta.read(Section(values, file.short), name=job.meta.name), meta_values=values)
    file.app.configs.replace(file.stem, values)
    return job
