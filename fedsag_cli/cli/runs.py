"""The commands `fedsag runs …`: list, show and compare the runs that were made on this machine."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from fedsag_cli.cli import completion, display
from fedsag_cli.cli.display import Format
from fedsag_cli.cli.examples import example
from fedsag_cli.cli.options import RunArgument
from fedsag_cli.errors import UsageError, counted, nearest

if TYPE_CHECKING:
    from fedsag_cli.history.finding import Found

app = typer.Typer(
    name="runs",
    help="Show, compare and find your runs. RUN is a number, last, or a workspace. Without a command: list.",
    epilog=example("fedsag runs list", "fedsag runs show last"),
)

_MOST_LISTED = 20
_LOOK_S = 0.2  # a file does not say that it has grown

FormatOption: TypeAlias = Annotated[Format, typer.Option("--format", help="Output: txt, or json for programs.")]
RunsArgument: TypeAlias = Annotated[
    list[str],
    typer.Argument(metavar="RUN...", autocompletion=completion.runs, help="Runs: numbers, last, or workspaces."),
]
JobOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--job", metavar="NAME", autocompletion=completion.jobs_of_runs, help="Only runs of this job."),
]


@app.callback(invoke_without_command=True)
def runs(ctx: typer.Context) -> None:
    if ctx.invoked_subcommand is None:
        list_()


@app.command("list", epilog=example("fedsag runs list -n 5"))
def list_(
    most: Annotated[int, typer.Option("-n", "--number", metavar="N", min=1, help="List the last N runs.")] = (
        _MOST_LISTED
    ),
    job: JobOption = None,
    output: FormatOption = Format.TXT,
) -> None:
    """List the last runs, the newest first.

    Settings in which they differ have columns.
    """
    from fedsag_cli.cli import runs_tables
    from fedsag_cli.history import listing

    listed = listing.newest(most, job)
    if output is Format.JSON:
        display.document([runs_tables.as_json(each, whole=False) for each in listed.found])
        return
    runs_tables.show_list(listed.found)
    if listed.total > len(listed.found):
        all_of_it = ["fedsag", "runs", "list", "-n", str(listed.total), *(["--job", job] if job else [])]
        display.line(f"{counted(listed.total - len(listed.found), 'older run')}: {shlex.join(all_of_it)}")


@app.command(epilog=example("fedsag runs show last"))
def show(run: RunArgument = "last", output: FormatOption = Format.TXT) -> None:
    """Show what is known of a run.

    How it ended, its settings, its metrics by round, and where its files are.
    """
    from fedsag_cli.cli import runs_tables

    found = _found(run)
    if output is Format.JSON:
        display.document(runs_tables.as_json(found))
    else:
        runs_tables.show_run(found)


@app.command(epilog=example("fedsag runs compare 1 last", "fedsag runs compare 1 2 3 --html compared.html"))
def compare(
    runs: RunsArgument,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page for a browser, with charts, too.")
    ] = None,
    output: FormatOption = Format.TXT,
) -> None:
    """Compare settings and curves of runs."""
    from fedsag_cli import pages
    from fedsag_cli.cli import runs_compared

    if len(runs) < 2:
        raise UsageError("compare needs at least two runs", hint="example: fedsag runs compare 3 last")
    found = [_found(word) for word in runs]
    if html is not None:
        try:
            pages.comparison([each.report for each in found], html, [f"run {each.name}" for each in found])
        except OSError as error:
            raise UsageError(f"--html {html} cannot be written: {error.strerror}") from None
        if not pages.has_charts():
            display.note(f"the page has tables only: for charts, {pages.INSTALL}")
    if output is Format.JSON:
        display.document(runs_compared.comparison_as_json(found))
        return
    runs_compared.show_comparison(found)
    if html is not None:
        display.line(f"page       {html.absolute()}")


@app.command(epilog=example("fedsag runs diff 1 last"))
def diff(
    run: RunArgument,
    other: Annotated[
        str, typer.Argument(metavar="RUN", autocompletion=completion.runs, help="The run to compare it with.")
    ],
    output: FormatOption = Format.TXT,
) -> None:
    """Find where two runs differ first.

    Their settings, and the first round, site and tensor that are not the same.
    """
    import msgspec

    from fedsag_cli.cli import runs_compared
    from fedsag_cli.history import first_difference
    from fedsag_cli.report import differing

    pair = [_found(run), _found(other)]
    compared = first_difference.compare(pair[0].folder(), pair[1].folder())
    settings = differing.settings([each.report for each in pair])
    digests = [each.report.digest for each in pair]
    if output is Format.JSON:
        same = compared.difference is None and compared.longer is None and compared.models > 0
        display.document(
            {
                "runs": [each.name for each in pair],
                "identical": same and digests[0] == digests[1],
                "settings": settings,
                "digests": digests,
                **msgspec.to_builtins(compared),
            }
        )
        return
    runs_compared.show_settings(settings, [each.name for each in pair])
    for text in runs_compared.said_of(compared, [each.name for each in pair], digests):
        display.line(text)
    if "seed" in settings:
        display.line("the seeds differ: with the same --seed, only the settings make a difference")


@app.command(epilog=example("fedsag runs best --job fruit", "fedsag runs best 5 6 7 --metric val_loss --min"))
def best(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN...]",
            show_default=False,
            autocompletion=completion.runs,
            help="Runs: numbers, last, or workspaces (default: all).",
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            metavar="NAME",
            autocompletion=completion.metrics,
            help="The metric that decides (default: that of the last run).",
        ),
    ] = None,
    job: JobOption = None,
    lowest: Annotated[bool, typer.Option("--min", help="The lowest value is the best.")] = False,
    output: FormatOption = Format.TXT,
) -> None:
    """Find the best run by a metric."""
    from fedsag_cli.cli import runs_tables, wording
    from fedsag_cli.history import listing
    from fedsag_cli.params.metrics import looks_lower_is_better

    among = _unique([_found(word) for word in runs]) if runs else None
    metric, ranked = listing.ranked(metric, lowest=lowest, job=job, among=among)
    winner, value = ranked[0]
    if len(jobs := list(dict.fromkeys(each.report.job for each, _ in ranked))) > 1:
        display.note(f"these are runs of {len(jobs)} jobs: {wording.few(jobs)}; --job NAME looks at those of one")
    if looks_lower_is_better(metric) and not lowest:
        display.warning(f"{metric!r} looks like a loss, of which the lowest value is the best: see --min")
    if output is Format.JSON:
        display.document(
            {
                "metric": metric,
                "value": value.value,
                "round": value.round_num,
                "of_runs": len(ranked),
                **runs_tables.as_json(winner, whole=False),
            }
        )
        return
    where = "the final model" if value.round_num is None else f"the model sent in round {value.round_num}"
    superlative = "lowest" if lowest else "highest"
    display.line(
        f"run {winner.name} has the {superlative} {metric} of {counted(len(ranked), 'run')}: {value.value:.6g}, {where}"
    )
    runs_tables.show_facts(winner)


@app.command(epilog=example("fedsag runs logs last site-1", "fedsag runs logs last server -f"))
def logs(
    run: RunArgument,
    site: Annotated[str, typer.Argument(metavar="SITE", autocompletion=completion.sites, help="A site, or server.")],
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as the log grows, until the run ends.")] = False,
    output: FormatOption = Format.TXT,
) -> None:
    """Print the log of a site or of the server."""
    import json

    from fedsag_cli.history.reading import goes_on, identity_of
    from fedsag_cli.workspace import SERVER, WORKER, Workspace

    found = _found(run)
    root = found.folder()
    workspace, named = Workspace(root), identity_of(root)
    known = [SERVER, *found.report.sites, *([WORKER] if workspace.site(WORKER).is_dir() else [])]
    file = workspace.log(site)
    if site.partition(":")[0] not in known:
        raise UsageError(f"run {found.name} has no site {site!r}", hint=nearest(site, known))
    if not file.is_file():
        raise UsageError(f"{site} of run {found.name} has no log: {file} does not exist")
    try:
        file.open("rb").close()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None
    lines = _lines_of(file, lambda: follow and goes_on(root, named))
    if output is Format.JSON and not follow:
        display.document({"run": found.name, "site": site, "file": str(file), "lines": list(lines)})
        return
    for text in lines:
        if output is Format.JSON:
            display.json_line(json.dumps(text))
        else:
            display.line(text)
        if display.has_no_reader():
            return


@app.command("open", epilog=example("fedsag runs open last"))
def open_(run: RunArgument = "last", output: FormatOption = Format.TXT) -> None:
    """Open the page of a run in the browser.

    Where there is no display, its path is printed.
    """
    import os
    import sys

    from fedsag_cli.workspace import Workspace

    found = _found(run)
    page = Workspace(found.folder()).report_page
    if not page.is_file():
        raise UsageError(
            f"run {found.name} has no page: {page} does not exist",
            hint=f"it is written at the end of a run; `fedsag runs show {found.name}` shows what there is",
        )
    if output is Format.JSON:
        display.document({"run": found.name, "page": str(page)})
        return
    display.line(str(page))
    if sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        import webbrowser

        webbrowser.open(page.as_uri())


@app.command(epilog=example('fedsag runs query "SELECT number, job, seconds FROM runs"'))
def query(
    select: Annotated[str, typer.Argument(metavar="SQL", help="A SELECT statement of SQLite.")],
    output: FormatOption = Format.TXT,
) -> None:
    """Ask the database of runs in SQL.

    Nothing can be changed. A SELECT that is wrong is answered with all tables and columns.
    """
    from fedsag_cli.cli import runs_tables
    from fedsag_cli.history import asking

    answer = asking.ask(select)
    if output is Format.JSON:
        display.document([dict(zip(answer.columns, row, strict=True)) for row in answer.rows])
    else:
        runs_tables.show_answer(answer)


@app.command(epilog=example("fedsag runs pack last", "fedsag runs pack workspaces/first -o first.zip"))
def pack(
    run: RunArgument = "last",
    file: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="The file to write (default: JOB-NUMBER.fedsag.zip)."),
    ] = None,
    output: FormatOption = Format.TXT,
) -> None:
    """Pack a run into one file, which verify runs again on any machine.

    It has the job, the plan, the versions, the report and the digest of every model, but no model, log or data. The
    files of the job are packed as they are: if there are secrets in them, do not pass the pack on.
    """
    import msgspec

    from fedsag_cli.cli import wording
    from fedsag_cli.simulator.packs.packing import pack_run

    packed = pack_run(_found(run), file)
    for text in packed.notes:
        display.note(text)
    if output is Format.JSON:
        display.document({"file": str(packed.file), **msgspec.to_builtins(packed.pack)})
        return
    pack = packed.pack
    clients = counted(len(pack.settings.clients), "client")
    display.line(f"pack       {packed.file}, {wording.size(packed.file.stat().st_size)}")
    display.line(f"job        {pack.job}: {clients}, seed {pack.settings.seed}, {counted(pack.rounds, 'round')}")
    if pack.models:
        left = wording.size(sum(pack.models.values()))
        display.line(f"not in it  {counted(len(pack.models), 'model')}, {left}; logs and data")
    for name in pack.outside:
        display.note(
            f"{name} is outside the job, and not in the pack: who verifies it needs that file at the same path"
        )
    if pack.environment:
        display.note(
            f"the job reads environment variables, whose values are not in the pack: {', '.join(pack.environment)}"
        )
    display.line(f"again      fedsag verify {shlex.quote(str(packed.file))}")


@app.command("rm", epilog=example("fedsag runs rm 1 2", "fedsag runs rm last --files"))
def remove(
    runs: RunsArgument,
    files: Annotated[
        bool, typer.Option("--files", help="Remove also the files that the runs made in their workspaces.")
    ] = False,
    output: FormatOption = Format.TXT,
) -> None:
    """Remove runs from the list.

    Their files stay, unless --files is given; your own files stay always.
    """
    from fedsag_cli.history import removing

    removed, refused = [], []
    for each in _unique([_found(word) for word in runs]):
        try:
            removed.append(removing.remove(each, files=files))
        except UsageError as error:
            refused.append(error)
    if output is Format.JSON:
        display.document([{"run": each.name, "said": each.said} for each in removed])
    else:
        for done in removed:
            display.line(done.said)
    if refused:
        raise _together(refused, f"{len(refused)} of {counted(len(runs), 'run')} cannot be removed")


@app.command("import", epilog=example("fedsag runs import workspaces/first simulator_workspace.runs/*"))
def import_(
    workspaces: Annotated[
        list[Path],
        typer.Argument(metavar="WS...", autocompletion=completion.workspaces, help="Folders with runs made before."),
    ],
    output: FormatOption = Format.TXT,
) -> None:
    """Import runs that were made before into the list.

    Also runs of older versions, and runs that are half written: what there is, is imported.
    """
    from fedsag_cli.history.importing import take_in_all

    taken, refused = take_in_all(workspaces)
    for fault in (fault for each in taken for fault in each.faults):
        display.warning(fault)
    if output is Format.JSON:
        display.document(
            [
                {
                    "run": each.row.number,
                    "workspace": str(each.root),
                    "status": each.row.status,
                    "was_known": each.was_known,
                }
                for each in taken
            ]
        )
    else:
        for each in taken:
            there = ", was in the list already" if each.was_known else ""
            display.line(
                f"run {each.row.number}: {each.root}, job {each.row.job or 'unknown'}, {each.row.status}{there}"
            )
    if refused:
        left = len(workspaces) - len(taken)
        raise _together(refused, f"{left} of {counted(len(workspaces), 'folder')} cannot be imported")


def _found(word: str) -> Found:
    """The run; what of it cannot be read is told."""
    from fedsag_cli.history import finding

    finding.refresh()
    found = finding.find(word)
    for fault in found.faults:
        display.warning(fault)
    return found


def _together(refused: Sequence[UsageError], message: str) -> UsageError:
    """One error for several; if there is but one, that."""
    if len(refused) == 1:
        return refused[0]
    failed = UsageError(message)
    failed.details = [f"    {each.message}" for each in refused]
    return failed


def _unique(found: Sequence[Found]) -> list[Found]:
    return list({each.name: each for each in found}.values())


def _lines_of(log: Path, goes_on: Callable[[], bool]) -> Iterator[str]:
    """The lines of a log, until its run has ended."""
    import time

    from fedsag_cli.simulator.logs import LogTail

    tail = LogTail(log)
    is_last = False
    while not is_last:
        is_last = not goes_on()  # asked first: then what was written before the end is read
        yield from tail.lines(to_the_end=is_last)
        if not is_last:
            time.sleep(_LOOK_S)
