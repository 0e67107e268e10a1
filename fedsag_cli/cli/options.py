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


def names_in(clients: str | None) -> list[str]:
    """The names of -c; empty if it is not given."""
    return [name.strip() for name in clients.split(",")] if clients is not None else []


JobArgument: TypeAlias = Annotated[
    Path, typer.Argument(metavar="JOB", autocompletion=completion.jobs, help="The job's folder.")
]
NumClientsOption: TypeAlias = Annotated[
    int | None,
    typer.Option("-n", "--n_clients", metavar="N", help="Number of clients; their names are site-1 to site-N."),
]
ClientsOption: TypeAlias = Annotated[
    str | None, typer.Option("-c", "--clients", metavar="A,B", help="Names of the clients; -n is then ignored.")
]
SlotsOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "-t",
        "--threads",
        metavar="T",
        help="Number of clients that work at the same time (default: by cores and memory).",
    ),
]
GpusOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "-gpu",
        "--gpu",
        metavar="IDS",
        help="GPU groups, e.g. 0,1 or [0,1],[2], by number or UUID. One client of each group works at a time.",
    ),
]
TorchThreadsOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--torch-threads", metavar="K", help="Number of torch threads in each client (default: cores / clients)."
    ),
]
LauncherOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--launcher",
        metavar="fork|spawn",
        autocompletion=completion.launchers,
        help="How processes start: fork (default on Linux, faster) or spawn.",
    ),
]
WorkersOption: TypeAlias = Annotated[
    bool | None,
    typer.Option(
        "--workers/--no-workers",
        show_default=False,
        help="-t worker processes do the tasks of all clients, one after another, instead of a process a client "
        "(default: as the job says, with serves_any_client). For thousands of clients.",
    ),
]
TracebackOption: TypeAlias = Annotated[bool, typer.Option("-debug", "--debug", help="Show the traceback of an error.")]
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
