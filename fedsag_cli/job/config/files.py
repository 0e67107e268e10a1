"""Finds the files of a template or a job safely: it may have harmful links, pipes, or files without read permission."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedsag_cli.errors import JobError
from fedsag_cli.leftovers import is_leftover

_DEEPEST = 100
_MOST_LINKS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The allowed targets of links in a folder. `whole` is the folder's name in messages, such as "the job"."""

    whole: str
    allow: Callable[[Path], bool]

    @classmethod
    def of(cls, folder: Path, whole: str) -> Bounds:
        root = real(folder)
        return cls(whole=whole, allow=lambda target: target.is_relative_to(root))


def real(path: Path) -> Path:
    """The path with its links resolved; a link to itself is kept."""
    return Path(os.path.realpath(path))


def check(path: Path, bounds: Bounds | None = None) -> None:
    """Raises JobError for a path that is neither a file nor a folder, and for a link to a target outside `bounds`."""
    if path.is_symlink():
        if not path.exists():
            raise JobError(f"{path} is a broken link")
        target = real(path)
        if bounds and not bounds.allow(target):
            raise JobError(f"{path} is a link to {target}, outside {bounds.whole}", hint="replace it by a copy")
    if not path.is_file() and not path.is_dir():
        raise JobError(f"{path} is not a regular file")


def below(
    folder: Path, bounds: Bounds | None = None, leave_out: Callable[[Path], bool] = lambda _: False
) -> Iterator[tuple[str, Path]]:
    """Every file in `folder` and its subfolders without leftovers, by its path in `folder`. Links are followed.

    `leave_out`: whether a file or a subfolder is left out, whatever it is.

    Raises JobError as `check` does, and for a link to a folder that contains it.
    """
    num_links = 0
    pending: list[tuple[Path, str, tuple[Path, ...]]] = [(folder, "", (real(folder),))]
    while pending:
        at, inside, above = pending.pop()
        for path in sorted(path for path in at.iterdir() if not is_leftover(path.name)):
            if leave_out(path):
                continue
            check(path, bounds)
            if not path.is_dir():
                yield f"{inside}{path.name}", path
                continue
            target = real(path) if path.is_symlink() else above[-1] / path.name
            num_links += path.is_symlink()
            if any(folder.is_relative_to(target) for folder in above):
                raise JobError(f"{path} is a link to a folder it is in")
            # without this limit, links to folders of links give an endless number of files
            if len(above) > _DEEPEST or num_links > _MOST_LINKS:
                raise JobError(f"{path}: folders and links are nested too deeply")
            pending.append((path, f"{inside}{path.name}/", (*above, target)))


@contextmanager
def reading() -> Iterator[None]:
    """Turns an OSError, as for a missing read permission or a name that is too long, into a JobError."""
    try:
        yield
    except OSError as error:
        raise JobError(f"{error.filename or 'a file'} cannot be read: {error.strerror or error}") from None
