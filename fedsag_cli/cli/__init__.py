"""The command line: `fedsag config`, `job …`, `simulator`, `verify` and `runs …`. `main` prints errors and exits."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

import fedsag_cli
from fedsag_cli.cli import config, display, job, runs, simulator, verify
from fedsag_cli.errors import FedsagError, UsageError
from fedsag_cli.interop import commands

_EXPECTED = {"int": "it must be a whole number", "float": "it must be a number", "bool": "it must be yes or no"}

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
app.command("verify")(verify.verify)
app.add_typer(runs.app, name="runs")


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
        code = app(prog_name="fedsag", standalone_mode=False)
    except FedsagError as error:
        code = _failed(error)
    except TyperException as error:
        code = _refused(error)
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        # its texts may be anybody's: it is not left to Python to print them
        display.bug(error)
        code = 1
    raise SystemExit(code or 0)


def _failed(error: FedsagError) -> int:
    display.error(error)
    return error.exit_code


def _refused(error: TyperException) -> int:
    """A command line that typer refuses, in our words: typer's may quote those of a library that checks its values."""
    context: Any = getattr(error, "ctx", None)
    text = error.format_message()
    if context is not None and text == context.get_help():  # there was no command
        display.help_text(text)
        return UsageError.exit_code
    parameter: Any = getattr(error, "param", None)
    checked: Any = getattr(error.__cause__, "errors", None)
    if parameter is not None and checked is not None:
        wrong = checked()[0]
        flag = min(parameter.opts, key=len)
        text = f"{flag} {shlex.quote(str(wrong['input']))}: {_expected(wrong)}"
    else:
        text = f"{text[:1].lower()}{text[1:]}"
    command = context.command_path if context is not None else "fedsag"
    return _failed(UsageError(text.rstrip("."), hint=f"{command} -h shows what it takes"))


def _expected(wrong: Mapping[str, Any]) -> str:
    kind = wrong["type"].partition("_")[0]
    return _EXPECTED.get(kind) or str(wrong.get("ctx", {}).get("error") or "this value cannot be used")
