"""The command line: `fedsag config`, `fedsag job …`, `fedsag simulator`. `main` prints errors and exits."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import fedsag_cli
from fedsag_cli.cli import config, display, job, simulator
from fedsag_cli.errors import FedsagError
from fedsag_cli.interop import commands

app = typer.Typer(
    name="fedsag",
    help="Federated learning from the command line: create a job from a template, run it, get a model and a report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich's boxes cut the names of options on a narrow terminal
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("config")(config.config)
app.add_typer(job.app, name="job")
app.command("simulator")(simulator.simulator)


def _show_version(wanted: bool) -> None:
    if wanted:
        display.line(f"fedsag {fedsag_cli.__version__}")
        raise typer.Exit


@app.callback()
def _fedsag(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    display.escape_unencodable()
    try:
        commands.check(sys.argv[1:])
        app(prog_name="fedsag")
    except FedsagError as error:
        display.error(error)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
