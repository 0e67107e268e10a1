"""The command `fedsag verify`, which proves a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsag_cli.cli import completion, display
from fedsag_cli.cli.display import Format
from fedsag_cli.errors import RunError

if TYPE_CHECKING:
    from fedsag_cli.simulator.verify import Verification

_MOST_SHOWN = 20


def verify(
    workspace: Annotated[
        Path, typer.Argument(metavar="WS", autocompletion=completion.workspaces, help="The workspace of the run.")
    ] = Path("simulator_workspace"),
    output: Annotated[Format, typer.Option("--format", help="Output: txt, or json for programs.")] = Format.TXT,
    debug: Annotated[bool, typer.Option("-debug", "--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Prove what a run wrote: recompute every digest. Nothing is changed.

    \b
    Exit codes:
      0    everything is proven
      2    there is no run
      4    something is not what the run wrote
    """
    import msgspec

    from fedsag_cli.simulator.verify import verify as look

    if debug:
        display.show_tracebacks()
    found = look(workspace)
    if output is Format.JSON:
        display.document(msgspec.to_builtins(found))
    else:
        _show(found)
    if faults := found.all_faults:
        error = RunError(f"{workspace} is not what the run wrote")
        error.details = faults[:_MOST_SHOWN]
        if len(faults) > _MOST_SHOWN:
            error.details = [*error.details, f"and {len(faults) - _MOST_SHOWN} more"]
        raise error


def _show(found: Verification) -> None:
    if not found.rounds:
        display.line("the run has no complete round yet: there is nothing to prove")
        return
    proven = [each for each in found.rounds if not each.fault]
    display.line(f"rounds     {len(proven)} of {len(found.rounds)} proven{_span([each.round_num for each in proven])}")
    for each in found.files:
        if not each.fault:
            display.line(f"proven     {each.path}")
    display.line(f"digest     {found.digest}" if found.is_finished else "the run is not finished")


def _span(numbers: list[int]) -> str:
    """The rounds, if they follow each other."""
    if not numbers or numbers != list(range(numbers[0], numbers[-1] + 1)):
        return ""
    return f": {numbers[0]}" if len(numbers) == 1 else f": {numbers[0]} to {numbers[-1]}"
