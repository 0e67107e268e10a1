"""The commands `fedsag job …`: list templates, create a job, show its variables, export it."""

from __future__ import annotations

import shlex
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedsag_cli.cli import completion, display
from fedsag_cli.cli.display import Format
from fedsag_cli.cli.examples import example
from fedsag_cli.cli.options import (
    ClientsOption,
    JobArgument,
    NumClientsOption,
    SlotsOption,
    TracebackOption,
    names_in,
)
from fedsag_cli.cli.overrides import FILE_FLAGS, FORCE_FLAGS, CommandWithOverrides, unfold
from fedsag_cli.errors import JobError

if TYPE_CHECKING:
    from fedsag_cli.job.templates.variables import Row

app = typer.Typer(
    name="job",
    help="Make a job from a template, and show its variables.",
    epilog=example("fedsag job create -w sag_np", "fedsag job show_variables"),
    no_args_is_help=True,
)

TemplatesDir = Annotated[
    Path | None,
    typer.Option("-d", "--job_templates_dir", "--job-templates-dir", help="Folder with job templates."),
]
JobFolder = Annotated[
    Path,
    typer.Option("-j", "--job_folder", "--job-folder", autocompletion=completion.jobs, help="The job's folder."),
]
FormatOption = Annotated[Format, typer.Option("--format", help="Output: txt, or json for programs.")]
_LIST_EXAMPLE = example("fedsag job list_templates --format json")
_SHOW_EXAMPLE = example("fedsag job show_variables -j jobs/first")


@app.command("list-templates", hidden=True, epilog=_LIST_EXAMPLE)
@app.command("list_templates", epilog=_LIST_EXAMPLE)
def list_templates(
    job_templates_dir: TemplatesDir = None,
    output: FormatOption = Format.TXT,
    debug: TracebackOption = False,
) -> None:
    """List the job templates."""
    from fedsag_cli.job.templates import find

    if debug:
        display.show_tracebacks()
    listed = find.all_templates(job_templates_dir)
    columns = ["name", "description", "controller_type", "execution_api_type", "source"]
    found = [{column: getattr(template, column) for column in columns} for template in listed.templates]
    if output is Format.JSON:
        display.document(found)
    else:
        display.table(found, columns)
        if not found:
            display.note(f"no templates in {job_templates_dir}")
    for problem in listed.problems:
        display.warning(problem)


@app.command("show-variables", hidden=True, epilog=_SHOW_EXAMPLE)
@app.command("show_variables", epilog=_SHOW_EXAMPLE)
def show_variables(
    job_folder: JobFolder = Path("current_job"),
    output: FormatOption = Format.TXT,
    debug: TracebackOption = False,
) -> None:
    """Show a job's variables: value, type, default, meaning."""
    from fedsag_cli.job.templates import variables

    if debug:
        display.show_tracebacks()
    rows = variables.of_job(job_folder)
    if output is Format.JSON:
        display.document([_as_json(row) for row in rows])
    else:
        _show(rows)


@app.command(
    "create",
    cls=CommandWithOverrides,
    epilog=example(
        "fedsag job create -w sag_np -j jobs/first \\",
        "    -f config_fed_server.conf num_rounds=3 min_clients=2 \\",
        '    -f config_fed_client.conf app_config="--delta 2"',
    ),
)
def create(
    job_folder: JobFolder = Path("current_job"),
    template: Annotated[
        str,
        typer.Option(
            "-w", "--template", autocompletion=completion.templates, help="A template's name, or a folder with one."
        ),
    ] = "sag_pt",
    config_file: Annotated[
        list[str] | None,
        typer.Option(
            *FILE_FLAGS,
            metavar="FILE KEY=VALUE...",
            autocompletion=completion.keys,
            help="Set values in a file of the job; key- removes a key. Can be repeated.",
        ),
    ] = None,
    script_dir: Annotated[
        Path | None,
        typer.Option(
            "-sd", "--script_dir", "--script-dir", help="Folder with your scripts; they replace the template's."
        ),
    ] = None,
    force: Annotated[bool, typer.Option(*FORCE_FLAGS, help="Replace an existing job.")] = False,
    job_templates_dir: TemplatesDir = None,
    output: FormatOption = Format.TXT,
    debug: TracebackOption = False,
) -> None:
    """Make a job folder from a template."""
    from fedsag_cli.interop import reading
    from fedsag_cli.job.templates import variables
    from fedsag_cli.job.templates.create import create as make

    if debug:
        display.show_tracebacks()
    made = make(
        job_folder,
        template,
        overrides=unfold(config_file or []),
        script_dir=script_dir,
        force=force,
        templates_dir=job_templates_dir,
        command=sys.argv[1:],
        translate=reading.translate,
    )
    for text in made.warnings:
        display.warning(text)
    for text in [*made.notes, *made.refusals]:
        display.note(text)
    if output is Format.JSON:
        remarks = {"notes": [*made.notes, *made.refusals], "warnings": list(made.warnings)}
        display.document({"job_folder": str(made.folder), "template": made.template, **remarks})
        return
    display.line(f"made {made.folder} from {made.template}")
    try:
        rows = variables.of_job(made.folder, job_templates_dir)
    except JobError as error:  # in a file that was copied unchanged
        display.note(f"the variables are not shown: {error.message}")
    else:
        _show([row for row in rows if row.is_variable] or rows)
    folder = shlex.quote(str(job_folder))
    first = "change what the note says, then " if made.refusals else ""
    display.line(f"next: {first}fedsag simulator {folder}    every key: fedsag job show_variables -j {folder}")


@app.command(
    "validate", epilog=example("fedsag job validate jobs/first -n 8", "fedsag job validate jobs/first -n 8 --dry-run")
)
def validate(
    job_folder: JobArgument = Path("current_job"),
    num_clients: NumClientsOption = None,
    clients: ClientsOption = None,
    slots: SlotsOption = None,
    dry: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Then let one client do one task in a copy, and estimate memory and time for -n and -t."
        ),
    ] = False,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Check the job with this value, as in fedsag simulator. Can be repeated."
        ),
    ] = None,
    output: FormatOption = Format.TXT,
    debug: TracebackOption = False,
) -> None:
    """Check a job without running it: show every problem, with its file, line and key.

    Each script is started in a copy of its app, up to flare.init(), and the server's components are built.
    """
    from fedsag_cli.cli import problems
    from fedsag_cli.simulator.dry_run import dry_run
    from fedsag_cli.simulator.options import Options
    from fedsag_cli.simulator.validation import validate as check

    if debug:
        display.show_tracebacks()
    options = Options(num_clients=num_clients, clients=names_in(clients), slots=slots, sets=sets or ())
    checked = check(job_folder, options)
    if dry and not checked.problems:
        problems.show_dry_run(dry_run(job_folder, options), output)
    else:
        problems.show(checked, job_folder, output)


class Target(str, Enum):
    """A system to which a job can be exported."""

    NVFLARE = "nvflare"


@app.command("export", epilog=example("fedsag job export jobs/first exported --to nvflare"))
def export(
    job_folder: JobArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    to: Annotated[Target, typer.Option("--to", help="The system that will run the job.")] = Target.NVFLARE,
    force: Annotated[bool, typer.Option(*FORCE_FLAGS, help="Replace an existing job.")] = False,
    output: FormatOption = Format.TXT,
    debug: TracebackOption = False,
) -> None:
    """Export a job, with its scripts, to NVFLARE 2.9. It runs without fedsag."""
    from fedsag_cli.interop import reading
    from fedsag_cli.interop.export import export as write
    from fedsag_cli.job import Job

    if debug:
        display.show_tracebacks()
    written = write(Job.load(job_folder, reading.translate), out, force=force)
    for text in written.notes:
        display.note(text)
    if output is Format.JSON:
        display.document({"job_folder": str(written.folder), "to": to.value, "notes": list(written.notes)})
        return
    display.line(f"wrote {written.folder} for {to.value}")
    display.line(f"next, with NVFLARE installed: nvflare simulator {shlex.quote(str(out))} -w WS -n 2 -t 2")


def _show(rows: list[Row]) -> None:
    cells = [{key: value if isinstance(value, str) else "" for key, value in _as_json(row).items()} for row in rows]
    for row, shown in zip(rows, cells, strict=True):
        shown["value"] = display.shown(row.value)
        shown["default"] = "" if row.default is None else display.shown(row.default)
        if display.on_terminal():
            shown["meaning"] = row.meaning or row.component  # one column less: the others need its width
    columns = ["file_name", "var_name", "value", "type", "default", "component", "meaning"]
    if display.on_terminal():
        columns.remove("component")
    display.table(cells, columns, by="file_name")


def _as_json(row: Row) -> dict[str, Any]:
    return {
        "file_name": row.file,
        "var_name": row.key,
        "value": row.value,
        "type": row.kind,
        "default": row.default,
        "component": row.component,
        "meaning": row.meaning,
    }
