"""All runs of this user: each has a number and a row in one database. A fault of the database never harms a run."""

from __future__ import annotations

from pathlib import Path


def workspace_of(word: str) -> Path:
    """The workspace of a run, named by its number, by `last`, or by a folder. Raises UsageError naming known runs."""
    from fedsag_cli.history.finding import find

    return find(word).folder()


def number_of(workspace: Path) -> int:
    """The number of the run in a workspace; 0 if it has none, or the database cannot be read."""
    from fedsag_cli.errors import UsageError
    from fedsag_cli.history.finding import find

    try:
        return find(str(workspace)).number
    except UsageError:
        return 0
