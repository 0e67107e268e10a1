"""Forks a run: a new run begins after a round of an earlier one, with all that the earlier one had then."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from fedsag_cli import catalog, history
from fedsag_cli.errors import UsageError, WorkspaceError, counted
from fedsag_cli.events import Event, ModelSaved, ReplyFailed, RoundFinished, from_line
from fedsag_cli.history.reading import identity_of
from fedsag_cli.plan import ParentRun, Plan, ServerPlan
from fedsag_cli.record import Found, Line, Place, Proof, Record, Whole, read, sha256_of
from fedsag_cli.simulator import resume
from fedsag_cli.simulator.planning import Planned
from fedsag_cli.workspace import Workspace, checkpoints_in

_ACCOUNTS = ("DPFedAvg", "GaussianAccountant")
_MORE = "--keep-checkpoints N|all keeps those of more rounds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """A place in a run, the parent, after which a new run begins.

    `files`: the proofs of the checkpoints that the new run needs. `models`: those of the parent's models, if nothing
    came after this place.
    """

    parent: Workspace
    plan: Plan
    found: Found
    place: Place
    files: Sequence[Proof]
    models: Sequence[Proof]

    @property
    def whole(self) -> Whole:
        return self.place.whole

    def checked(self, planned: Planned, job: Path) -> Planned:
        """The plan of the new run, with its parent and with notes for the user.

        Raises WorkspaceError if the new run cannot begin there, or if it is of another job.
        """
        now = planned.plan
        resume.check_is_of_job(self.plan, now, self.parent, job, hint=" --at ROUND")
        self._check_workflows(now)
        self._check_rounds(now)
        self._check_account(now)
        if now.strict:
            self._check_strict()
        parent = ParentRun(
            id=identity_of(self.parent.root),
            round_num=self.whole.round_num,
            rounds=int(self.whole.state["whole_rounds"]),
            link=self.found.links[self.place.line],
            anew=_anew(self.plan.server, now.server),
        )
        return replace(
            planned, plan=msgspec.structs.replace(now, parent=parent), notices=[*planned.notices, *self._notes(now)]
        )

    def put(self, child: Workspace, identity: str) -> tuple[list[list[Event]], list[Event]]:
        """Give the new run, which has this identity, the checkpoints and the record of its parent up to this place.

        Returns what happened until then, by round, and which models are there. Raises OSError, WorkspaceError.
        """
        # of a run that is not finished, fedsag knows its files by their times, which a second name would change
        may_link = self.parent.report.is_file()
        files, models = (
            {_path(self.parent, proof.file): _path(child, proof.file) for proof in proofs}
            for proofs in (self.files, self.models)
        )
        try:
            child.adopt(files, may_link=may_link)
            child.adopt(models, may_link=False)  # a user may change a model in place
        except FileNotFoundError as gone:
            raise _gone(str(gone.filename)) from None
        lines = [*self.found.lines[: self.place.line + 1], *self.files, *self.models]
        _write_record(child.record, identity, lines)
        return [_events_of(each) for each in Found(lines).rounds], [
            ModelSaved(path=str(path)) for path in models.values()
        ]

    def _notes(self, now: Plan) -> Iterator[str]:
        number = history.number_of(self.parent.root)
        changes = list(resume.changes(self.plan, now))
        if self.plan.seed != now.seed:
            changes.append(f"the seed was {self.plan.seed} and is {now.seed}")
        changed = f"changed from there on: {resume.few(changes)}" if changes else "nothing is changed"
        named = f"run {number}" if number else "the run"
        yield f"this is a fork of {named} in {self.parent.root} after round {self.whole.round_num}; {changed}"
        is_last = self._workflow + 1 == len(now.server.workflows)
        if changes and is_last and self._rounds_left(now) == 0:
            yield "no round is left, so the changes have no effect: --set num_rounds=N gives the fork more rounds"
        if anew := _anew(self.plan.server, now.server):
            yield f"of another class than before, and so without what it kept: {', '.join(anew)}"

    def _check_workflows(self, now: Plan) -> None:
        """What the current workflow, and those before it, did cannot become what others did."""
        for number, was in enumerate(self.plan.server.workflows[: self._workflow + 1]):
            new = next(iter(now.server.workflows[number:]), None)
            if new is None or (was.id, catalog.class_path(was.path)) != (new.id, catalog.class_path(new.path)):
                shown = f"{new.id!r} ({new.path})" if new else "none"
                raise WorkspaceError(
                    f"a fork goes on in the workflow that its parent was in: workflow {number + 1} was {was.id!r} "
                    f"({was.path}) and is {shown}",
                    hint="change the arguments of the workflow; or begin a new run",
                )

    def _check_rounds(self, now: Plan) -> None:
        """The parent must not have done more rounds than the fork is to have."""
        args = now.server.workflows[self._workflow].args
        if args.get("num_rounds") == self.plan.server.workflows[self._workflow].args.get("num_rounds"):
            return
        if (left := self._rounds_left(now)) is not None and left < 0:
            count = args["num_rounds"]
            raise WorkspaceError(
                f"num_rounds is {count}, but the fork begins after round {self.whole.round_num}, and so with "
                f"{counted(count - left, 'round')} of its parent",
                hint="give --at an earlier round, or more rounds",
            )

    def _rounds_left(self, now: Plan) -> int | None:
        """Of the fork in its present workflow, if that says how many it has; negative if it has too few."""
        args = now.server.workflows[self._workflow].args
        if "num_rounds" not in args:
            return None
        return int(args["num_rounds"]) - (self.whole.round_num + 1 - int(args.get("start_round", 0)))

    @property
    def _workflow(self) -> int:
        """The number of the workflow in which the parent was."""
        return int(self.whole.state.get("workflow", 0))

    def _check_account(self, now: Plan) -> None:
        """An account of privacy has one noise, for all rounds: with another one it would say too little."""
        accounts = {catalog.class_path(name) for name in _ACCOUNTS}
        of_sites = [[site.config.task_result_filters for site in plan.sites] for plan in (self.plan, now)]
        for spec in now.server.components:
            if catalog.class_path(spec.path) not in accounts:
                continue
            was = next((each for each in self.plan.server.components if each.id == spec.id), None)
            if was != spec or of_sites[0] != of_sites[1]:
                raise WorkspaceError(
                    f"{spec.path} counts what the rounds spend of privacy. The parent had other settings, so what both "
                    "spend together is not known",
                    hint="leave its settings, and the clients' filters, as they were; or begin a new run",
                )

    def _check_strict(self) -> None:
        for whole in Found(self.found.lines[: self.place.line + 1]).rounds:
            for event in _events_of(whole):
                if isinstance(event, ReplyFailed):
                    failed = f"{event.site} failed in round {whole.round_num} of the parent"
                    raise WorkspaceError(f"--strict: no client may fail, but {failed}")


def found_at(parent: Workspace, plan: Plan, at: str) -> Fork:
    """The place after the round `at` of a run, written as ROUND or WORKFLOW:ROUND. Raises UsageError, WorkspaceError.

    All that a fork needs is there, and is what the run wrote.
    """
    workflow, _, number = at.rpartition(":")
    if not number.isdecimal():
        raise UsageError(f"--at {at}: it must be the number of a round, from 0 on", hint="example: --at 3")
    found = read(parent.record, plan.identity)
    places = list(found.places)
    if not places:
        raise WorkspaceError(f"the run in {parent.root} has no complete round: there is nothing to fork")
    fits = [each for each in places if each.whole.round_num == int(number)]
    if workflow:
        fits = [each for each in fits if _workflow_of(each.whole) == workflow]
    if not fits:
        raise UsageError(f"--at {at}: the run in {parent.root} has no such round", hint=_kept(parent, places))
    if len(fits) > 1:
        words = [f"--at {_workflow_of(each.whole)}:{number}" for each in fits]
        raise UsageError(f"--at {at}: {len(fits)} workflows have that round", hint=f"write {' or '.join(words)}")
    (place,) = fits
    models = [*_models(parent, found)] if place is places[-1] and found.digest else []
    there = _checkpoints(parent)
    if not there >= (place.needs if models else place.files):
        raise UsageError(f"--at {at}: its checkpoint was not kept in {parent.root}", hint=_kept(parent, places))
    files = [_proven(parent, found, name, place) for name in sorted(place.files & there)]
    return Fork(parent=parent, plan=plan, found=found, place=place, files=files, models=models)


@contextlib.contextmanager
def new_place(root: Path) -> Iterator[Path]:
    """A new folder for a fork of the run in the workspace `root`. It goes if no run begins. Raises WorkspaceError."""
    above = root.with_name(f"{root.name}.forks")
    try:
        above.mkdir(exist_ok=True)
        place = next(place for number in itertools.count(1) if _is_made(place := above / str(number)))
    except OSError as error:
        raise WorkspaceError(f"no fork can be made in {above}: {error.strerror}") from None
    try:
        yield place
    finally:
        if not Workspace(place).events.exists():
            with contextlib.suppress(OSError, WorkspaceError):
                _remove(place)


def _is_made(place: Path) -> bool:
    try:
        place.mkdir()
    except FileExistsError:
        return False
    return True


def _remove(place: Path) -> None:
    with Workspace(place) as workspace:
        workspace.take()
        workspace.remove()
    place.parent.rmdir()


def _proven(parent: Workspace, found: Found, name: str, place: Place) -> Proof:
    """The proof of a checkpoint. Raises WorkspaceError if it does not have what was proven."""
    file = parent.checkpoints / name
    proof = found.proof(name, after=place.line if name == place.whole.checkpoint else None)
    if proof is None:
        raise WorkspaceError(f"{file} was not proven when the run ended: no run can begin with it")
    try:
        is_proven = sha256_of(file) == proof.sha256
    except FileNotFoundError:
        raise _gone(str(file)) from None
    if not is_proven:
        raise WorkspaceError(f"{file} is no checkpoint of this run: its SHA-256 is another")
    return proof


def _gone(file: str) -> WorkspaceError:
    return WorkspaceError(f"{file} has just gone: the run goes on, and keeps later checkpoints only", hint=_MORE)


def _models(parent: Workspace, found: Found) -> Iterator[Proof]:
    """The models that the run has written to its workspace, as far as they are what it wrote."""
    files = dict.fromkeys(line.file for line in found.lines if isinstance(line, Proof) and os.sep in line.file)
    for name in files:
        path, proof = _path(parent, name), found.proof(name)
        if path.is_relative_to(parent.root) and path.is_file() and proof and sha256_of(path) == proof.sha256:
            yield proof


def _path(workspace: Workspace, file: str) -> Path:
    """A file that the record names."""
    return Path(os.path.normpath(workspace.checkpoints / file))


def _checkpoints(parent: Workspace) -> frozenset[str]:
    """The names of those that are there now: a run that goes on removes some."""
    return frozenset(path.name for path in checkpoints_in(parent.checkpoints))


def _kept(parent: Workspace, places: Sequence[Place]) -> str:
    """Which rounds a fork can begin after, as a hint. Of the last one, the models may have what the best file had."""
    there = _checkpoints(parent)
    kept = [each.whole for each in places if there >= (each.needs if each is places[-1] else each.files)]
    numbers: dict[str, list[int]] = {}
    for whole in kept:
        numbers.setdefault(_workflow_of(whole), []).append(whole.round_num)
    several = len({_workflow_of(each.whole) for each in places}) > 1
    shown = [f"{name}:{span}" if several else span for name, own in numbers.items() for span in _spans(own)]
    rounds = f"the checkpoints of these rounds are there: {', '.join(shown)}" if shown else "there is no checkpoint"
    return f"{rounds}; {_MORE}"


def _spans(rounds: Sequence[int]) -> Iterator[str]:
    """Rounds that follow each other as one: "3 to 7"."""
    for _, group in itertools.groupby(enumerate(rounds), key=lambda each: each[1] - each[0]):
        numbers = [number for _, number in group]
        yield f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def _workflow_of(whole: Whole) -> str:
    return msgspec.json.decode(whole.events[-1], type=RoundFinished).workflow


def _events_of(whole: Whole) -> list[Event]:
    return [from_line(bytes(raw)) for raw in whole.events]


def _anew(before: ServerPlan, now: ServerPlan) -> list[str]:
    """What a checkpoint of `before` has for a part that has another class in `now`."""
    classes = before.kept_by
    return [name for name, path in now.kept_by.items() if classes.get(name, path) != path]


def _write_record(path: Path, identity: str, lines: Sequence[Line]) -> None:
    record = Record(path, identity, Found(), 0)
    try:
        record.append(*lines)
        record.sync()
    finally:
        record.close()
