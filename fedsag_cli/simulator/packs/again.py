"""Makes a run again from its pack, and compares it with the run that was packed, model by model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fedsag_cli import machine
from fedsag_cli.errors import FedsagError, Interrupted, RunError, UsageError
from fedsag_cli.events import Event, ModelSent, Observer, ReplyAccepted, RoundFinished, from_line
from fedsag_cli.history.finding import Found
from fedsag_cli.history.first_difference import Compared, compare_files
from fedsag_cli.history.reading import FINISHED, has_run
from fedsag_cli.record import sha256_of
from fedsag_cli.report import Report
from fedsag_cli.simulator import simulate
from fedsag_cli.simulator.options import Options
from fedsag_cli.simulator.packs import DIGESTS, JOB, PLAN, REPORT, SUFFIX, Pack, sources, zipped
from fedsag_cli.simulator.packs.packing import pack_run
from fedsag_cli.workspace import Workspace

_PREFIX = "fedsag-verify-"  # of the folders for what is made and removed


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a run that was made again is the same as the one that was packed, and where they differ first.

    Pairs are of the packed run, and of the new one. `is_same`: as far as the packed run went, if it did not finish.
    `was_stopped`: the new run was ended after the round in which it differs, or at the end of the packed one. `cause`:
    why the new run failed; empty if it did not. `clients_differ`: not the same clients answered. `failures`: the
    causes, by client that failed in one run only. `versions`: those that differ. `outside`: the files outside the job
    that are not what they were.
    """

    is_same: bool
    pack: Pack
    compared: Compared
    digests: tuple[str, str]
    was_stopped: bool
    cause: str
    clients_differ: bool
    failures: dict[str, tuple[str, str]]
    versions: dict[str, tuple[str, str]]
    outside: list[str]


def verify_pack(file: Path, workspace: Path | None = None, observers: Sequence[Observer] = ()) -> Verdict:
    """Make the run in the pack again and compare the two. The run is not written into the database of runs.

    Its files are in `workspace`; without one, in a folder that is removed. Raises UsageError before anything starts,
    and what `simulate` raises if the run does not begin or is interrupted.
    """
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as place:
        return _verified(file, str(file), Path(place), workspace, observers)


def verify_run(found: Found, workspace: Path | None = None, observers: Sequence[Observer] = ()) -> Verdict:
    """The same for a run of this machine, without a pack that stays."""
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as place:
        packed = pack_run(found, Path(place, f"run{SUFFIX}"))
        return _verified(packed.file, f"run {found.name}", Path(place), workspace, observers)


def _verified(file: Path, named: str, place: Path, root: Path | None, observers: Sequence[Observer]) -> Verdict:
    if root is not None and has_run(root):
        raise UsageError(f"-w {root}: a run is there, which is not replaced", hint="name a new folder")
    folder = place / "pack"
    pack = zipped.unpack(file, folder)
    job = _job_of(pack, folder, named)
    changed = _changed_outside(pack, named)
    before = _read(folder / REPORT, Report, named)
    watch = _watch(folder / DIGESTS, named)
    new = root or place / "workspace"
    cause = ""
    try:
        after = simulate(job, new, _options(pack, before), [watch, *observers])
    except Interrupted as error:
        error.hint = ""  # the job is gone then: nobody can continue
        raise
    except RunError as error:
        if error.report is None:
            raise
        after, cause = error.report, "" if watch.has_stopped else error.message
    compared = compare_files(folder / DIGESTS, Workspace(new).events)
    digests = (pack.digest, after.digest)
    return Verdict(
        is_same=_is_same(pack, compared, digests),
        pack=pack,
        compared=compared,
        digests=digests,
        was_stopped=watch.has_stopped,
        cause=cause,
        clients_differ=_clients_differ(compared, before, after),
        failures=_failures_in_one(before, after),
        versions=_unlike(pack.versions, after.versions),
        outside=changed,
    )


def _job_of(pack: Pack, folder: Path, named: str) -> Path:
    """The job of the pack, which is what the plan in it says. Raises UsageError."""
    if pack.folder in ("", ".", "..") or "/" in pack.folder:
        raise UsageError(f"{named} is not a pack of fedsag: {pack.folder!r} is not the name of a folder")
    job = folder / JOB / pack.folder
    try:
        sources.check_unchanged(job, _read(folder / PLAN, sources.Facts, named))
    except FedsagError as error:
        raise UsageError(f"{named}: {error.message}".replace(f"{folder}/", ""), hint=error.hint) from None
    return job


def _read(path: Path, kind: Any, named: str) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(f"{named}: {path.name} is not what fedsag wrote: {_why(error)}") from None


def _watch(digests: Path, named: str) -> _Watch:
    try:
        with digests.open("rb") as lines:
            return _Watch(map(from_line, lines))
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{named}: {digests.name} is not what fedsag wrote: {_why(error)}") from None


def _why(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _changed_outside(pack: Pack, named: str) -> list[str]:
    """The files outside the job that have changed. Raises UsageError if one is missing: the run cannot begin."""
    if missing := [name for name in pack.outside if not Path(name).is_file()]:
        raise UsageError(
            f"{named}: the job runs code that is outside of it, and missing here: {', '.join(missing)}",
            hint="a pack has the job's own files only: put the others where they were",
        )
    try:
        return [name for name, digest in pack.outside.items() if sha256_of(Path(name)) != digest]
    except OSError as error:
        raise UsageError(f"{named}: {error.filename} cannot be read: {error.strerror}") from None


def _options(pack: Pack, before: Report) -> Options:
    """Those of the run, but with no more clients at a time than there are cores for.

    If the run waited for everybody, this one does so too, whatever the clock says.
    """
    given = pack.settings
    waited = not any(each.not_waited_for for each in before.rounds)
    return Options(
        clients=given.clients,
        seed=given.seed,
        slots=min(given.slots, max(1, machine.cores() // max(1, given.threads))),
        threads=given.threads,
        launcher=given.launcher,
        gpus=given.gpus,
        workers=given.workers,
        strict=given.strict,
        sets=given.sets,
        waits_for_all=given.waits_for_all or waited,
        recorded=False,
    )


def _is_same(pack: Pack, compared: Compared, digests: tuple[str, str]) -> bool:
    if compared.difference is not None or not compared.models:
        return False
    if pack.status == FINISHED:
        return compared.longer is None and digests[0] == digests[1]
    return compared.longer != 0


def _clients_differ(compared: Compared, before: Report, after: Report) -> bool:
    """Whether other clients answered in a whole round, up to the first difference."""
    end = compared.difference
    answered = [
        {(each.workflow, each.round_num): sorted(each.answered) for each in report.rounds if each.is_whole}
        for report in (before, after)
    ]
    for name in answered[0].keys() & answered[1].keys():
        is_before = end is None or name[0] != end.workflow or name[1] <= end.round_num
        if is_before and answered[0][name] != answered[1][name]:
            return True
    return False


def _failures_in_one(before: Report, after: Report) -> dict[str, tuple[str, str]]:
    causes = [{site: each.failure.cause for site, each in report.failures.items()} for report in (before, after)]
    in_one = [site for site in causes[0] | causes[1] if (site in causes[0]) != (site in causes[1])]
    return {site: (causes[0].get(site, ""), causes[1].get(site, "")) for site in in_one}


def _unlike(before: dict[str, str], after: dict[str, str]) -> dict[str, tuple[str, str]]:
    pairs = {name: (version, after[name]) for name, version in before.items() if name in after}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


class _Watch:
    """An observer that ends the run when the rest of it tells nothing: after the first round that is not the pack's."""

    def __init__(self, events: Iterable[Event]) -> None:
        self._known = {key for event in events if (key := _key(event)) is not None}
        self._differs = self.has_stopped = False

    def on(self, event: Event) -> None:
        """Raises RunError to end the run."""
        key = _key(event)
        self._differs |= key is not None and key not in self._known
        if isinstance(event, RoundFinished) and self._differs and not self.has_stopped:
            self.has_stopped = True
            raise RunError("the run has come to its first difference")


def _key(event: Event) -> tuple[object, ...] | None:
    """What names a model that travelled, with its digest; None for other events."""
    if isinstance(event, ModelSent):
        return event.workflow, event.round_num, event.task, "", "", event.digest
    if isinstance(event, ReplyAccepted):
        return event.workflow, event.round_num, event.task, event.site, event.model_owner, event.digest
    return None
