"""Finds the job that was meant, for the error about a folder that is none."""

from __future__ import annotations

import contextlib
import difflib
import itertools
from collections.abc import Iterator
from pathlib import Path

from fedsag_cli.job.config import CLIENT_FILE, SERVER_FILE, TEMPLATE_FILE, hocon

_DEEPEST, _MOST_FOLDERS = 3, 500  # a user may name a home folder by mistake
_SHOWN = 5
_MAKE_ONE = "fedsag job create makes one"


def hint(folder: Path) -> str:
    """What to give instead of `folder`, an absolute path that is no job or does not exist."""
    if is_template(folder):
        return f"it is a template: fedsag job create -w {folder} makes a job from it"
    if above := [path for path in folder.parents[:_DEEPEST] if _is_job(path)]:
        return f"did you mean {above[-1]}?"
    there = next(path for path in (folder, *folder.parents) if path.is_dir())
    jobs = list(itertools.islice(jobs_below(there), _SHOWN + 1 if there == folder else _MOST_FOLDERS))
    if there != folder:
        alike = difflib.get_close_matches(folder.name, [job.name for job in jobs], n=1)
        jobs = [job for job in jobs if job.name in alike]
    if not jobs:
        return _MAKE_ONE
    more = " and others" if len(jobs) > _SHOWN else ""
    return f"did you mean {' or '.join(map(str, jobs[:_SHOWN]))}{more}?"


def is_template(folder: Path) -> bool:
    return (folder / TEMPLATE_FILE).is_file()


def jobs_below(folder: Path) -> Iterator[Path]:
    """The jobs in subfolders, those that are less deep first. Links are not followed."""
    level, seen = [folder], 0
    for _ in range(_DEEPEST):
        below: list[Path] = []
        for path in itertools.chain.from_iterable(map(_folders_in, level)):
            seen += 1
            if seen > _MOST_FOLDERS:
                return
            if _is_job(path):
                yield path
            else:
                below.append(path)
        level = below


def _folders_in(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):  # such as a folder that may not be read
        return sorted(
            path
            for path in folder.iterdir()
            if path.is_dir() and not path.is_symlink() and not path.name.startswith(".") and not _is_workspace(path)
        )
    return []


def _is_workspace(folder: Path) -> bool:
    """Whether a run has its files there: what looks like a job in it is what the run made of one."""
    return (folder / ".fedsag").is_dir()


def _is_job(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return not is_template(folder) and bool(
            hocon.find(folder, "meta")
            or hocon.find(folder / "config", SERVER_FILE)
            or hocon.find(folder / "config", CLIENT_FILE)
        )
    return False
