"""What several commands take: how a run is named, and what of it is shown."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from fedsag_cli.cli import completion
from fedsag_cli.cli.display import Columns, Format
from fedsag_cli.errors import UsageError


def folder_named(word: str | Path) -> Path:
    """The folder of a word after -w. Raises UsageError if it is empty."""
    if not str(word):  # to Path, it is the current folder
        raise UsageError("-w needs the name of a folder", hint="is a variable of the shell not set?")
    return Path(word)


RunArgument: TypeAlias = Annotated[
    str,
    typer.Argument(metavar="RUN", autocompletion=completion.runs, help="A run: its number, last, or its workspace."),
]
FollowOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--follow",
        metavar="SITE",
        autocompletion=completion.sites,
        help="Print the log of this client too, line by line. May be given several times.",
    ),
]
TableOption: TypeAlias = Annotated[
    Columns,
    typer.Option(
        "--table", help="The table at the end: brief fits the terminal, full has every metric of every client."
    ),
]
QuietOption: TypeAlias = Annotated[
    bool,
    typer.Option("-q", "--quiet", help="Print only notes, the table at the end, failures and where the report is."),
]
FormatOption: TypeAlias = Annotated[
    Format, typer.Option("--format", help="Output: txt, or json with one event per line.")
]


def check_output(output: Format, follow: Collection[str], *, quiet: bool) -> None:
    """Raises UsageError if the options contradict each other."""
    if output is Format.JSON and (quiet or follow):
        flag = "-q" if quiet else "--follow"
        raise UsageError(f"{flag} and --format json exclude each other", hint="leave one of them out")
