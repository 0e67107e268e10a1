"""Proves a run: recomputes every digest of its record, and compares report and files with it. Changes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import msgspec

from fedsag_cli.errors import WorkspaceError
from fedsag_cli.events import from_line
from fedsag_cli.history.reading import check_run
from fedsag_cli.record import Found, Proof, read, sha256_of
from fedsag_cli.report import Report, ReportBuilder, RoundReport
from fedsag_cli.simulator import resume
from fedsag_cli.workspace import Workspace, checkpoints_in


class RoundProof(msgspec.Struct, frozen=True, kw_only=True):
    """One round. `fault`: why it is not proven; empty if it is."""

    workflow: str
    round_num: int
    fault: str = ""


class FileProof(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint or a model, as a path in the workspace. `fault`: why it is not proven; empty if it is."""

    path: str
    fault: str = ""


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """`is_finished`: the run came to its end, with this digest of its final params. `faults`: of the run itself."""

    rounds: list[RoundProof]
    files: list[FileProof]
    faults: list[str]
    is_finished: bool
    digest: str

    @property
    def all_faults(self) -> list[str]:
        rounds = [f"round {each.round_num}: {each.fault}" for each in self.rounds if each.fault]
        return [*self.faults, *rounds, *(f"{each.path} {each.fault}" for each in self.files if each.fault)]


def verify(root: Path, *, with_files: bool = True) -> Verification:
    """What of the run in the workspace `root` is proven. Raises WorkspaceError if no run is there to be proven.

    `with_files`: checkpoints and models too, which takes as long as reading them.
    """
    workspace = Workspace(root)
    check_run(workspace.root)
    if (plan := resume.plan_in(workspace)) is None:
        raise WorkspaceError(
            f"there is no run in {workspace.root}", hint="name the folder that -w gave to the simulator"
        )
    try:
        found = read(workspace.record, plan.identity)
        report = _report(workspace)
        return Verification(
            rounds=list(_rounds(found, report)),
            files=list(_files(workspace, found)) if with_files else [],
            faults=list(_faults(workspace, found, report)),
            is_finished=bool(found.digest),
            digest=found.digest,
        )
    except OSError as error:
        raise WorkspaceError(f"{error.filename} cannot be read: {error.strerror}") from None


def _report(workspace: Workspace) -> Report | None:
    """None if there is none, as after a kill, or it cannot be read. Raises OSError."""
    try:
        return msgspec.json.decode(workspace.report.read_bytes(), type=Report)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _faults(workspace: Workspace, found: Found, report: Report | None) -> Iterator[str]:
    name = workspace.record.relative_to(workspace.root)
    if found.damaged:
        yield f"{name}: line {found.damaged} is not what the run wrote; nothing from there on is proven"
    if report is None and workspace.report.exists():
        yield "report.json is not what the run wrote: it cannot be read"
    if report is not None and report.ok != bool(found.digest):
        yield f"report.json says that the run {'went well' if report.ok else 'failed'}, {name} says otherwise"
    if report is not None and report.ok and report.digest != found.digest:
        yield "report.json: the digest is not that of the run"


def _rounds(found: Found, report: Report | None) -> Iterator[RoundProof]:
    builder = ReportBuilder()
    builder.complete([[from_line(bytes(raw)) for raw in whole.events] for whole in found.rounds])
    known = [each for each in report.rounds if each.is_whole] if report else builder.report.rounds
    for told, mine in zip_longest(builder.report.rounds, known):
        if each := told or mine:
            fault = "" if told and mine and _facts(told) == _facts(mine) else "report.json and the record do not agree"
            yield RoundProof(workflow=each.workflow, round_num=each.round_num, fault=fault)


def _facts(each: RoundReport) -> object:
    means = (each.metrics, each.metrics_by_site, each.num_steps)
    return (each.workflow, each.round_num, each.asked, each.answered, *means)


def _files(workspace: Workspace, found: Found) -> Iterator[FileProof]:
    """The checkpoints that are there, those of the last whole round, and the models that were written at the end.

    Before the end, a later workflow may be writing the models of an earlier one anew.
    """
    folder = workspace.checkpoints
    there = {path.name for path in checkpoints_in(folder)} if folder.is_dir() else set()
    last = {*(whole.checkpoint for whole in found.rounds[-1:]), *found.states.values()}
    models = {line.file for line in found.lines if isinstance(line, Proof) and os.sep in line.file and found.digest}
    for name in sorted(there | last) + sorted(models):
        path, proof = folder / name, found.proof(name)
        shown = os.path.relpath(path, workspace.root)
        if not path.is_file():
            yield FileProof(path=shown, fault="is gone")
        elif proof is None:
            yield FileProof(path=shown, fault="is not in the record")
        else:
            yield FileProof(path=shown, fault="" if sha256_of(path) == proof.sha256 else "is not what the run wrote")
