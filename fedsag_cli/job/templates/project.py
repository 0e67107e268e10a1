"""The user's folder with code, given by -sd, without what is no code in it."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from fedsag_cli.errors import counted
from fedsag_cli.job.config import files
from fedsag_cli.leftovers import is_of_a_tool

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

_IGNORE_FILES = (".gitignore", ".fedsagignore")  # where they disagree, the last one counts
_MOST_NAMES = 12  # of a note
_MOST_FILES = 10_000  # that are counted: a data set may have millions


class Project:
    """The files of a folder, without what is of a tool, and what .gitignore or .fedsagignore names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._of_tools: list[Path] = []
        self._ignored: list[Path] = []
        self._rules: dict[Path, GitIgnoreSpec | None] = {}

    def files(self) -> list[tuple[str, Path]]:
        """Each file with its path in the folder. Raises JobError, OSError."""
        files.check(self._folder)
        return list(files.below(self._folder, leave_out=self._leaves_out))

    def notes(self) -> Iterator[str]:
        """What `files` left out, why, and how much it is."""
        left = [*self._of_tools, *self._ignored]
        if not left:
            return
        names = [path.relative_to(self._folder).as_posix() for path in left]
        if len(names) > _MOST_NAMES:
            names[_MOST_NAMES:] = [f"{len(names) - _MOST_NAMES:,} more"]
        reasons = [
            *(["files of tools, environments, jobs and workspaces are not code"] if self._of_tools else []),
            *(["a line !NAME in .fedsagignore keeps what .gitignore leaves out"] if self._ignored else []),
        ]
        yield f"-sd {self._folder}: {', '.join(names)} left out ({_how_much(left)}): {'; '.join(reasons)}"

    def _leaves_out(self, path: Path) -> bool:
        if path.is_dir() and is_of_a_tool(path):
            self._of_tools.append(path)
        elif self._is_ignored(path):
            self._ignored.append(path)
        else:
            return False
        return True

    def _is_ignored(self, path: Path) -> bool:
        slash = "/" if path.is_dir() else ""
        for folder in path.parents:  # the nearest file that says something about the path decides
            rules = self._rules_of(folder)
            said = rules.check_file(f"{path.relative_to(folder).as_posix()}{slash}").include if rules else None
            if said is not None or folder == self._folder:
                return bool(said)
        return False

    def _rules_of(self, folder: Path) -> GitIgnoreSpec | None:
        if folder not in self._rules:
            there = [path for path in (folder / name for name in _IGNORE_FILES) if path.is_file()]
            self._rules[folder] = _read(there) if there else None
        return self._rules[folder]


def _read(ignore_files: Iterable[Path]) -> GitIgnoreSpec:
    from pathspec import GitIgnoreSpec  # most projects need no rules, and need not wait for it

    lines = [
        line for file in ignore_files for line in file.read_text("utf-8-sig", errors="surrogateescape").splitlines()
    ]

    def is_readable(line: str) -> bool:  # git, too, passes over a line that it cannot read
        try:
            GitIgnoreSpec.from_lines([line])
        except (ValueError, re.error):
            return False
        return True

    return GitIgnoreSpec.from_lines(filter(is_readable, lines))


def _how_much(paths: Iterable[Path]) -> str:
    num_files = num_bytes = 0
    for file in islice(chain.from_iterable(map(_files_in, paths)), _MOST_FILES):
        num_files += 1
        with contextlib.suppress(OSError):
            num_bytes += file.lstat().st_size
    at_least = "at least " if num_files == _MOST_FILES else ""
    return f"{at_least}{counted(num_files, 'file')}, {num_bytes / 1e6:,.1f} MB"


def _files_in(path: Path) -> Iterator[Path]:
    if path.is_symlink() or not path.is_dir():
        yield path
        return
    for base, _, names in os.walk(path):
        yield from (Path(base, name) for name in names)
