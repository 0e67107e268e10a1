"""What is wrong with a job, each problem with its file, key and line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fedsag_cli.errors import JobError
from fedsag_cli.job import App
from fedsag_cli.job.config import CLIENT_FILE, SERVER_FILE, hocon, lines, placeholders, tree
from fedsag_cli.job.config.lines import Place
from fedsag_cli.job.config.tree import KeyPath

_SITE = "site-1"  # the name with which an app is read that no site of the run has


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One problem. `file` is its name in the job, or an absolute path, and empty if the problem is in no file.

    `line`: None if it is not known. `key`: as `tree.written`, empty without one. `message` begins with file and key.
    """

    file: str
    line: int | None
    key: str
    message: str
    hint: str

    @property
    def text(self) -> str:
        """The message, with the line after the file's name."""
        if self.line is None:
            return self.message
        place = f"{self.file}:{self.line}"
        if self.message.startswith(place):
            return self.message
        return f"{place}: {self.message.removeprefix(f'{self.file}: ')}"


def all_in(error: JobError) -> list[JobError]:
    """The error and its others, each once."""
    return list({each.message: each for each in (error, *error.others)}.values())


def located(errors: Sequence[JobError], folder: Path, apps: Mapping[str, App]) -> list[Problem]:
    """The problems in the job at `folder`, in the order of files and lines. `apps`: as far as they could be read."""
    where = _Places(folder, apps)
    found = [where.problem(error) for error in errors]
    files = list(dict.fromkeys([*where.names, *(problem.file for problem in found)]))
    return sorted(found, key=lambda problem: (files.index(problem.file), problem.line or 0))


class _Places:
    """The places in the files of one job."""

    def __init__(self, folder: Path, apps: Mapping[str, App]) -> None:
        self._folder = folder
        meta = hocon.find(folder, "meta")
        self._paths: dict[str, Path] = {} if meta is None else {meta.name: meta}
        self._of_app: dict[str, tuple[App, str]] = {}
        for app in apps.values():
            for stem in (SERVER_FILE, CLIENT_FILE):
                if (path := app.file(stem)) is not None:
                    name = f"{app.name}/config/{path.name}"
                    self._paths[name], self._of_app[name] = path, (app, stem)
        self._found: dict[str, dict[KeyPath, Place]] = {}

    @property
    def names(self) -> list[str]:
        return list(self._paths)

    def problem(self, error: JobError) -> Problem:
        place = Place(error.file, error.line) if error.line is not None else self._place(error.file, error.at)
        inside = f"{self._folder}/"  # what is named by its absolute path
        return Problem(
            file=(place.file if place else error.file).removeprefix(inside),
            line=place.line if place else None,
            key=tree.written(error.at) if error.at else "",
            message=error.message.removeprefix(inside),
            hint=error.hint,
        )

    def _place(self, file: str, at: KeyPath) -> Place | None:
        if file not in self._paths or not at:
            return None
        if file not in self._found:
            self._found[file] = lines.places(self._paths[file], name=file)
        return lines.place_of(self._found[file], self._as_written(file, at))

    def _as_written(self, file: str, at: KeyPath) -> KeyPath:
        """The key path in the file, as the translation may have left out parts."""
        if file not in self._of_app:
            return at
        app, stem = self._of_app[file]
        try:
            values = app.configs.read(stem).values
            translated = app.written(stem, placeholders.nowhere(_SITE))
        except JobError:
            return at
        return _in_original(at, translated.values if translated else values, values)


def _in_original(at: KeyPath, translated: Any, original: Any) -> KeyPath:
    """The key path of the same value before the translation, as far as it can be followed."""
    found: list[str | int] = []
    for step in at:
        try:
            translated = translated[step]
            if isinstance(step, int) and isinstance(translated, Mapping) and "id" in translated:
                ids = [each.get("id") if isinstance(each, Mapping) else None for each in original]
                step = step if translated["id"] in ids[step : step + 1] else ids.index(translated["id"])
            original = original[step]
        except (LookupError, TypeError, ValueError):
            break
        found.append(step)
    return tuple(found) or at
