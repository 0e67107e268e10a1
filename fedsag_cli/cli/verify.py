"""The command `fedsag verify`: it proves the files of a run, or makes a run again and compares the two."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsag_cli.cli import completion, display
from fedsag_cli.cli.display import Format
from fedsag_cli.cli.examples import example
from fedsag_cli.cli.options import TracebackOption
from fedsag_cli.errors import RunError, UsageError, counted

if TYPE_CHECKING:
    from fedsag_cli.simulator.packs.again import Verdict
    from fedsag_cli.simulator.verify import Verification

EXAMPLE = example("fedsag verify workspaces/first", "fedsag verify last", "fedsag verify first.zip")

_MOST_SHOWN = 20


def verify(
    run: Annotated[
        str,
        typer.Argument(
            metavar="WS|RUN|FILE",
            autocompletion=completion.verifiable,
            help="WS, the workspace of a run: prove its files. RUN, a number or last, or FILE, a pack: make the run "
            "again and compare.",
        ),
    ] = "simulator_workspace",
    workspace: Annotated[
        Path | None,
        typer.Option(
            "-w",
            "--workspace",
            metavar="WS",
            help="Keep the run that is made again in this folder (default: remove it).",
        ),
    ] = None,
    output: Annotated[Format, typer.Option("--format", help="Output: txt, or json for programs.")] = Format.TXT,
    debug: TracebackOption = False,
) -> None:
    """Prove what a run wrote, or make a run again and see whether it is the same.

    Of a workspace, every digest is computed again; nothing is run or changed. A run that is named by its number, and a
    pack that `fedsag runs pack` wrote, are run again here, and compared bit for bit with what they were. A pack has
    code, which is run: verify only packs of people you trust.

    \b
    Exit codes:
      0    everything is proven; the run is the same
      2    there is no such run or pack, or its options cannot be used here
      3    its job cannot be run here
      4    something is not what the run wrote; the run differs, or failed
    """
    from fedsag_cli.history import finding

    if debug:
        display.show_tracebacks()
    try:
        is_file, exists = Path(run).is_file(), Path(run).exists()
    except OSError as error:  # a name that is too long, a folder of another user
        raise UsageError(f"{run} cannot be read: {error.strerror}") from None
    if finding.is_reference(run) or is_file:
        _again(run, workspace, output)
    elif run.endswith(".zip") and not exists:
        raise UsageError(f"there is no file {run}", hint="`fedsag runs pack RUN` writes packs")
    elif workspace is not None:
        raise UsageError("-w keeps a run that is made again: name that run by its number, or a pack")
    else:
        _prove(Path(run), output)


def _prove(root: Path, output: Format) -> None:
    import msgspec

    from fedsag_cli.simulator.verify import verify as look

    found = look(root)
    if output is Format.JSON:
        display.document(msgspec.to_builtins(found))
    else:
        _show_proof(found)
    if faults := found.all_faults:
        error = RunError(f"{root} is not what the run wrote")
        error.details = faults[:_MOST_SHOWN]
        if len(faults) > _MOST_SHOWN:
            error.details = [*error.details, f"and {len(faults) - _MOST_SHOWN} more"]
        raise error


def _show_proof(found: Verification) -> None:
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


def _again(word: str, workspace: Path | None, output: Format) -> None:
    import msgspec

    from fedsag_cli.cli import views
    from fedsag_cli.history import finding
    from fedsag_cli.simulator.packs import again

    finding.refresh()
    found = finding.find(word) if finding.is_reference(word) else None
    with views.progress() as shown:
        if found is not None:
            verdict = again.verify_run(found, workspace, shown)
        else:
            verdict = again.verify_pack(Path(word), workspace, shown)
    if output is Format.JSON:
        display.document(msgspec.to_builtins(verdict))
    else:
        for text in _said(verdict):
            display.line(text)
    if not verdict.is_same:
        raise _unlike(verdict, workspace)


def _said(verdict: Verdict) -> Iterator[str]:
    from fedsag_cli.cli.runs_compared import where

    pack, compared = verdict.pack, verdict.compared
    same = f"{counted(compared.models, 'model')} in {counted(compared.rounds, 'round')}"
    settings = f"{counted(len(pack.settings.clients), 'client')}, seed {pack.settings.seed}"
    yield f"job        {pack.job}: {settings}"
    if verdict.is_same:
        yield f"same, bit for bit: {same}"
        if pack.status == "finished":
            yield f"digest     {pack.digest}"
        else:
            yield f"the packed run goes no further: it {_ended(pack.status)}"
            yield from [f"the new run failed too: {verdict.cause}"] if verdict.cause else []
    elif (found := compared.difference) is not None:
        only = {None: "", 0: ", which is in the packed run only", 1: ", which is in the new run only"}
        yield f"first difference: {where(found)}{only[found.only_in]}"
    yield from () if verdict.is_same else [f"the same in both: {same}"]
    if verdict.clients_differ:
        yield "not the same clients answered: who answers in time depends on the clock, and who fails may too"
    for site, (before, after) in list(verdict.failures.items())[:_MOST_SHOWN]:
        places = "the packed run, not here" if before else "the new run, not in the packed one"
        yield f"{site} failed in {places}: {before or after}"
    yield from (f"{name} has changed: it is outside the job" for name in verdict.outside)
    if pack.environment and not verdict.is_same:
        yield f"the job reads environment variables, which may differ: {', '.join(pack.environment)}"
    for name, (before, after) in verdict.versions.items():
        yield f"{name:<10} {before} in the packed run, {after} here"


def _ended(status: str) -> str:
    return {"failed": "failed", "interrupted": "was interrupted", "stopped": "was killed"}.get(status, status)


def _unlike(verdict: Verdict, workspace: Path | None) -> RunError:
    kept = "" if workspace else "-w WS keeps the new run, with its logs and models"
    if verdict.cause:
        return RunError(f"the run failed here: {verdict.cause}", hint=kept)
    if verdict.compared.difference is None:
        return RunError("the run is not the same: it ends with another model, or elsewhere", hint=kept)
    return RunError("the run is not the same", hint=kept)
