"""The command `fedsag config`, which shows and changes the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsag_cli.cli import display
from fedsag_cli.cli.display import Format
from fedsag_cli.cli.options import TracebackOption
from fedsag_cli.errors import UsageError


def config(
    job_templates_dir: Annotated[
        Path | None,
        typer.Option(
            "-jt", "--job_templates_dir", "--job-templates-dir", help="Store the folder with your job templates."
        ),
    ] = None,
    reset: Annotated[
        bool, typer.Option("--reset", help="Forget the stored folder: the templates of fedsag are used again.")
    ] = False,
    output: Annotated[Format, typer.Option("--format", help="Output: txt, or json for programs.")] = Format.TXT,
    debug: TracebackOption = False,
) -> None:
    """Show the settings, or change them."""
    from fedsag_cli.job.templates import find, settings  # 0.1 s for HOCON, which --version does not need

    if debug:
        display.show_tracebacks()
    if reset and job_templates_dir is not None:
        raise UsageError("--reset and -jt cannot both be given", hint="-jt alone replaces the stored folder")
    if reset:
        settings.forget_templates_dir()
    if job_templates_dir is not None:
        settings.set_templates_dir(job_templates_dir)
    where = next(find.templates_folders())
    found = {
        "config_file": str(settings.config_file()),
        "job_templates_dir": str(where.folder),
        "named_by": where.named_by,
    }
    if output is Format.JSON:
        display.document(found)
    else:
        display.table([{"setting": key, "value": value} for key, value in found.items()], ["setting", "value"])
    if settings.is_hidden(settings.config_file()):
        display.warning(f"{found['config_file']} belongs to another user and cannot be read: its settings do not apply")
    if not where.folder.is_dir():
        display.warning(f"there is no folder {where.folder}")
    elif reset and where.named_by != "shipped with fedsag":
        display.warning(f"{where.named_by} still names a folder")
    elif job_templates_dir is not None and where.named_by != found["config_file"]:
        display.warning(f"stored, but {where.named_by} takes precedence")
