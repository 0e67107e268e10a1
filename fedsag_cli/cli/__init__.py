"""The command line. `main` runs a command, prints its errors and exits; `commands` has the tree of all commands."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import fedsag_cli
from fedsag_cli.cli import display
from fedsag_cli.errors import FedsagError, UsageError

if TYPE_CHECKING:
    from typer.exceptions import TyperException

COMPLETES = "_FEDSAG_COMPLETE"
"""The variable with which the functions of `shells` ask what may follow."""

_EXPECTED = {"int": "it must be a whole number", "float": "it must be a number", "bool": "it must be yes or no"}


def main() -> None:
    display.escape_unencodable()
    words = sys.argv[1:]
    if os.environ.pop(COMPLETES, ""):
        raise SystemExit(_complete(words))
    display.tell_errors(as_json=_wants_json(words))
    code: int | None = 0
    try:
        if words in (["--version"], ["-V"]):  # at once: importing typer takes most of the time of a short command
            show_version()
        else:
            code = _run(words)
    except FedsagError as error:
        code = _failed(error)
    except KeyboardInterrupt:
        code = display.interrupted()
    except Exception as error:
        # its texts may be anybody's: it is not left to Python to print them
        display.bug(error)
        code = 1
    raise SystemExit(code or 0)


def _wants_json(words: Sequence[str]) -> bool:
    """Whether errors are to be JSON too, also that of a command line which cannot be read."""
    options = words[: words.index("--")] if "--" in words else words
    last = ""
    for word, after in pairwise([*options, ""]):
        if word.partition("=")[0] == "--format":
            last = after if word == "--format" else word.partition("=")[2]
    return last == "json"


def show_version() -> None:
    display.line(f"fedsag {fedsag_cli.__version__}")


def _complete(words: Sequence[str]) -> int:
    """Print what may follow the words that are typed so far. Nothing else is printed: the user is still typing."""
    try:
        from typer.main import get_command

        from fedsag_cli.cli import commands, position

        otherwise, offers = position.offers(get_command(commands.app), words)
        display.line(otherwise)
        for word, meaning in offers:
            display.offer(word, meaning)
    except (Exception, KeyboardInterrupt):
        return 1
    return 0


def _run(words: Sequence[str]) -> int | None:
    from typer.exceptions import TyperException

    from fedsag_cli.cli import commands
    from fedsag_cli.interop import commands as nvflares

    try:
        nvflares.check(words)
        code: int | None = commands.app(prog_name="fedsag", standalone_mode=False)
    except TyperException as error:
        return _refused(error)
    return code


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
    hint = f"{command} -h shows what it takes"
    if command.endswith(" simulator") and getattr(error, "option_name", "") == "--debug":  # there it has a value
        from fedsag_cli.cli.simulator import DEBUG_HINT

        hint = DEBUG_HINT
    return _failed(UsageError(text.rstrip("."), hint=hint))


def _expected(wrong: Mapping[str, Any]) -> str:
    kind = wrong["type"].partition("_")[0]
    return _EXPECTED.get(kind) or str(wrong.get("ctx", {}).get("error") or "this value cannot be used")
