"""Packs a run: writes one file from the workspace of a run and its job."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec

from fedsag_cli import foreign, machine
from fedsag_cli.errors import RunError, UsageError, WorkspaceError
from fedsag_cli.events import Event, RunStarted, from_line, to_line
from fedsag_cli.history import first_difference
from fedsag_cli.history.finding import Found
from fedsag_cli.history.reading import FINISHED, RUNNING
from fedsag_cli.plan import FORMAT, Plan, read_plan
from fedsag_cli.record import read
from fedsag_cli.report.places import relative
from fedsag_cli.simulator import verify
from fedsag_cli.simulator.packs import CRATE, DIGESTS, JOB, PACK, PLAN, REPORT, SUFFIX, Pack, Settings, sources, zipped
from fedsag_cli.simulator.packs.crate import metadata
from fedsag_cli.workspace import Workspace, files_in, write_whole

_WORKSPACE = "WORKSPACE"  # what stands in a pack for the path of the workspace
_UNFIT = re.compile(r"[^\w.-]+")


class Packed(NamedTuple):
    """The file that was written, what its pack.json says, and what the user should know."""

    file: Path
    pack: Pack
    notes: list[str]


def pack_run(found: Found, out: Path | None = None) -> Packed:
    """Write the pack of a run to `out`, by default to `<job>-<number>.fedsag.zip` in the current folder.

    Raises UsageError and WorkspaceError if the run or its job cannot be packed, or the file cannot be written; then
    there is no file. Raises RunError if the workspace is not what the run wrote.
    """
    workspace = Workspace(found.folder())
    plan = _plan_of(found, workspace)
    file = out or Path(_file_name(plan.job, found.number))
    _check_place(file)
    folder = Path(found.row.job_folder) if found.row and found.row.job_folder else None
    with tempfile.TemporaryDirectory(prefix="fedsag-pack-") as staged:
        job = sources.copy_job(folder, workspace, plan, Path(staged))
        kept: list[Pack] = []
        try:
            write_whole(file, lambda opened: kept.append(_write(opened, found, workspace, plan, job)))
        except OSError as error:
            raise UsageError(f"{error.filename or file} cannot be written: {error.strerror}") from None
    copied = [f"{job.note}: the copies in the workspace are packed"] if job.note else []
    return Packed(file, kept[0], copied)


def _plan_of(found: Found, workspace: Workspace) -> Plan:
    """The plan of a run that can be packed."""
    named = f"run {found.name}"
    if found.status == RUNNING:
        raise UsageError(f"{named} still goes on", hint="pack it when it has ended")
    try:
        plan = read_plan(workspace.plan)
    except (OSError, msgspec.DecodeError) as error:
        raise WorkspaceError(f"{named} cannot be packed: {workspace.plan} cannot be read: {error}") from None
    if plan.format != FORMAT:
        age = "an older" if plan.format < FORMAT else "a newer"
        raise WorkspaceError(f"{named} was made by {age} version of fedsag, whose runs this one cannot pack")
    if plan.parent is not None:
        raise UsageError(
            f"{named} is a fork: it began after round {plan.parent.round_num} of another run, and cannot be made "
            "again from its beginning",
            hint="pack the run that it is a fork of",
        )
    if plan.baseline:
        raise UsageError(
            f"{named} is the baseline {plan.baseline!r} of another run, and is made with it only",
            hint="name the run that it is a baseline of: `fedsag runs list` shows the runs",
        )
    if found.status != FINISHED and not found.rounds_done:
        raise UsageError(f"{named} has no complete round: there is nothing to pack")
    if faults := verify.verify(workspace.root, with_files=False).all_faults:
        failed = RunError(f"{workspace.root} is not what the run wrote")
        failed.details = faults
        raise failed
    return plan


def _file_name(job: str, number: int) -> str:
    name = _UNFIT.sub("_", job).strip("._") or "run"
    return f"{name}-{number}{SUFFIX}" if number else f"{name}{SUFFIX}"


def _check_place(file: Path) -> None:
    """Raises UsageError before anything is read: a file that is no pack is not replaced."""
    try:
        is_folder, has_folder, exists = file.is_dir(), file.parent.is_dir(), file.exists()
    except OSError as error:  # a name that is too long, a folder of another user
        raise UsageError(f"{file} cannot be written: {error.strerror}") from None
    if is_folder:
        raise UsageError(f"{file} is a folder", hint="-o names the file to write")
    if not has_folder:
        raise UsageError(f"{file}: there is no folder {file.parent}")
    if exists and not zipped.is_pack(file):
        raise UsageError(f"{file} exists, and is not a pack: it is not replaced", hint="name another file with -o")


def _write(opened: IO[bytes], found: Found, workspace: Workspace, plan: Plan, job: sources.JobFiles) -> Pack:
    places = {str(workspace.root): _WORKSPACE}
    with zipped.Writer(opened) as writer:
        writer.add(DIGESTS, _digests(found, workspace, places))
        writer.add_folder(f"{JOB}/{job.folder.name}")
        for path in files_in(job.folder):
            name = f"{JOB}/{job.folder.name}/{path.relative_to(job.folder)}"
            writer.add(name, zipped.pieces_of(path), is_program=bool(path.stat().st_mode & 0o100))
        report = foreign.masked(relative(found.report))
        places[sys.executable] = "python3"
        writer.add(PLAN, [_as_json(_plan_without(plan, places, job.environment))])
        places[str(machine.home())] = "~"
        writer.add(REPORT, [_as_json(_without(msgspec.to_builtins(report), places))])
        pack = _pack(found, workspace, plan, job, writer.files)
        writer.add(CRATE, [metadata(pack, report, writer.sizes)])
        whole = msgspec.structs.replace(pack, files=dict(writer.files))
        writer.add(PACK, [_as_json(whole)])
    return whole


def _pack(found: Found, workspace: Workspace, plan: Plan, job: sources.JobFiles, files: Mapping[str, str]) -> Pack:
    links = read(workspace.record, plan.identity).links
    models = {path: path.stat().st_size for path in map(Path, found.report.models) if path.is_file()}
    return Pack(
        job=plan.job,
        folder=job.folder.name,
        plan=plan.identity,
        record=links[-1] if links else "",
        settings=Settings(
            clients=plan.names,
            seed=plan.seed,
            slots=plan.slots,
            threads=plan.threads,
            launcher=plan.launcher,
            gpus=plan.gpus,
            workers=plan.has_workers,
            strict=plan.strict,
            sets=plan.overrides,
            waits_for_all=plan.waits_for_all,
        ),
        versions=found.report.versions,
        outside={name: digest for name, digest in plan.files.items() if name.startswith("/")},
        environment=job.environment,
        status=found.status,
        rounds=found.rounds_done,
        digest=found.report.digest,
        models={_within(path, workspace.root): size for path, size in models.items()},
        files=dict(files),
    )


def _digests(found: Found, workspace: Workspace, places: dict[str, str]) -> Iterator[bytes]:
    """The lines of events that tell digests. Raises UsageError if there is none, WorkspaceError.

    Adds to `places` those in which the run was before its workspace was moved.
    """
    has_digest = False
    try:
        with workspace.events.open("rb") as lines:
            for line in lines:
                if line.startswith(first_difference.KINDS) and (event := _event(line)) is not None:
                    has_digest |= bool(getattr(event, "digest", ""))
                    if isinstance(event, RunStarted):
                        places[event.workspace] = _WORKSPACE
                        line = to_line(msgspec.structs.replace(event, workspace=_WORKSPACE))
                    yield line
    except OSError as error:
        raise WorkspaceError(f"{workspace.events} cannot be read: {error.strerror}") from None
    if not has_digest:
        raise UsageError(
            f"run {found.name} has no digests of its models: it was made by an older version, or sent none"
        )


def _event(line: bytes) -> Event | None:
    """None for a line that was not written to its end."""
    try:
        return from_line(line) if line.endswith(b"\n") else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _plan_without(plan: Plan, places: Mapping[str, str], environment: list[str]) -> dict[str, Any]:
    """The plan without the paths of this machine. What names files of the job, and its settings, stays as it is.

    If values of the environment, which may be secret, have become settings, the parts that have them are left out.
    """
    found: dict[str, Any] = msgspec.to_builtins(plan)
    for site in found["sites"]:
        site["env"].pop("PYTHONPATH", None)
    return found | {key: None if environment else _without(found[key], places) for key in ("server", "sites")}


def _without(value: Any, places: Mapping[str, str]) -> Any:
    """The value with other words for these paths."""
    if isinstance(value, str):
        for path, word in places.items():
            if len(path) > 1 and path in value:
                value = word.join(re.split(rf"{re.escape(path)}(?![\w.-])", value))
        return value
    if isinstance(value, dict):
        return {key: _without(inner, places) for key, inner in value.items()}
    return [_without(each, places) for each in value] if isinstance(value, list) else value


def _within(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else path.name


def _as_json(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
