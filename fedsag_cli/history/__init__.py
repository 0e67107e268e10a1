"""All runs of this user: each has a number and a row in one database. A fault of the database never harms a run."""

from __future__ import annotations

from pathlib import Path


def workspace_of(word: str) -> Path:
    """The workspace of a run, named by its number, by `last`, or by a folder. Raises UsageError naming known runs."""
    from fedsag_cli.history.finding import find

    return find(word).folder()
