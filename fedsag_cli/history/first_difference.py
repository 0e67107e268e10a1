"""Where two runs differ first: the round, site and tensor that are not the same, by the digests in events.jsonl."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

import msgspec

from fedsag_cli.errors import WorkspaceError
from fedsag_cli.workspace import Workspace, by_number

_TRAVELS = ("ModelSent", "ReplyAccepted")
_PRINT = 8  # hex digits for each tensor
KINDS = (
    b'{"event":"ModelSent"',
    b'{"event":"ReplyAccepted"',
    b'{"event":"RoundStarted"',
    b'{"event":"RunStarted"',
    b'{"event":"WorkflowFinished"',
)
"""How the lines of events begin that are read here."""


class Model(NamedTuple):
    """A model that travelled: to the clients if `site` is empty. `number`: the how many-th of the task in the round.

    One that is sent again, as to a client that had no slot, or in a resumed run, is the same model.
    """

    workflow: str
    round_num: int
    task: str
    number: int
    site: str
    owner: str = ""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """The first model that is not the same. `site` is empty for a model that the server sent.

    `tensor`: the first that differs; empty if it is not known. `only_in`: 0 or 1, the run that alone has this model;
    None if both have it.
    """

    workflow: str
    round_num: int
    task: str
    site: str
    tensor: str = ""
    num_tensors: int = 0
    only_in: int | None = None


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """`models`: how many are the same, in how many rounds; 0 without digests, as of older versions.

    `longer`: 0 or 1, the run that goes on where the other has ended.
    """

    difference: Difference | None
    models: int
    rounds: int
    longer: int | None = None


_Digests: TypeAlias = "dict[Model, str]"
"""In the order of the run."""


class _Prints(msgspec.Struct):
    event: str
    round_num: int = 0
    workflow: str = ""
    task: str = ""
    site: str = ""
    model_owner: str = ""
    digest: str = ""
    tensors: str = ""
    names: list[str] = []


def compare(one: Path, other: Path) -> Compared:
    """Compare the runs in two workspaces. Raises WorkspaceError if their events cannot be read."""
    return compare_files(Workspace(one).events, Workspace(other).events)


def compare_files(one: Path, other: Path) -> Compared:
    """Compare two runs by their files of events, of which those in KINDS are enough. Raises WorkspaceError."""
    files = [one, other]
    (first, is_whole), (second, other_is_whole) = (_digests(file) for file in files)
    if not (any(first.values()) and any(second.values())):
        return Compared(difference=None, models=0, rounds=0)
    stages = [{_stage(model): None for model in models} for models in (first, second)]
    rank = {stage: number for number, stage in enumerate(stages[0] | stages[1])}
    in_both = stages[0].keys() & stages[1].keys()
    beyond = ({} if other_is_whole else _beyond(first, second), {} if is_whole else _beyond(second, first))
    unlike = [
        model
        for model in first | second
        if first.get(model) != second.get(model)
        and _stage(model) in in_both
        and not any(model in each for each in beyond)
    ]
    found = min(unlike, key=lambda model: (rank[_stage(model)], by_number(model.site)), default=None)
    only = [(place, 0 if stage in stages[0] else 1) for stage, place in rank.items() if stage not in in_both]
    only += [(rank[_stage(model)], run) for run, models in enumerate(beyond) for model in models]
    ends = min(only, default=None)
    same = [model for model in first if first[model] and first[model] == second.get(model)]
    if ends is not None and (found is None or ends[0] < rank[_stage(found)]):
        difference, longer = None, ends[1]
    else:
        difference, longer = None if found is None else _difference(found, files, first, second), None
    # without the measuring of the final model, which no client answers with a model
    answered = {
        (model.workflow, model.round_num) for model, digest in (first | second).items() if model.site and digest
    }
    rounds = len(answered & {(model.workflow, model.round_num) for model in same})
    return Compared(difference=difference, models=len(same), rounds=rounds, longer=longer)


def _stage(model: Model) -> Model:
    return model._replace(site="", owner="")


def _beyond(run: _Digests, stopped: _Digests) -> _Digests:
    """What the run has after the last model that one which was stopped has too."""
    found: _Digests = {}
    for model in reversed(run):
        if model in stopped:
            break
        found[model] = run[model]
    return found


def _digests(file: Path) -> tuple[_Digests, bool]:
    """The digest of each model, and whether all workflows are done.

    Of a round that was run again, by a resumed run, what the part before it did is left out.
    """
    found: _Digests = {}
    earlier: set[Model] = set()
    is_whole = False
    for model, line in _models(file):
        if model is not None:
            found.pop(model, None)  # it comes later now
            found[model] = line.digest
            earlier.discard(model)
        elif line.event == "RunStarted":
            earlier = set(found)
        elif line.event == "WorkflowFinished":
            is_whole = True
        else:
            named = (line.workflow, line.round_num)
            again = {each for each in earlier if (each.workflow, each.round_num) == named}
            found = {each: digest for each, digest in found.items() if each not in again} if again else found
            earlier -= again
    return found, is_whole


def _models(file: Path) -> Iterator[tuple[Model | None, _Prints]]:
    """Each model of a run, and its line; None for what else a line tells."""
    decoder = msgspec.json.Decoder(_Prints)
    sent: dict[tuple[str, int, str], list[str]] = {}
    try:
        with file.open("rb") as lines:
            for text in lines:
                if not text.startswith(KINDS):
                    continue
                try:
                    line = decoder.decode(text)
                except (msgspec.DecodeError, UnicodeDecodeError):  # half written
                    continue
                named = (line.workflow, line.round_num, line.task)
                if line.event not in _TRAVELS:
                    if line.event == "RoundStarted":
                        sent = {key: digests for key, digests in sent.items() if key[:2] != named[:2]}
                    yield None, line
                    continue
                digests = sent.setdefault(named, [])
                if line.event == "ModelSent" and line.digest not in digests:
                    digests.append(line.digest)
                number = digests.index(line.digest) + 1 if line.event == "ModelSent" else len(digests)
                yield Model(*named, number, line.site, line.model_owner), line
    except OSError as error:
        raise WorkspaceError(f"{file} cannot be read: {error.strerror}") from None


def _difference(found: Model, files: list[Path], first: _Digests, second: _Digests) -> Difference:
    only_in = None if found in first and found in second else 0 if found in first else 1
    tensor, number = "", 0
    if only_in is None:
        before, after = (_prints(file, found) for file in files)
        differ = [name for name in before | after if before.get(name) != after.get(name)]
        tensor, number = (differ or [""])[0], len(differ)
    return Difference(
        workflow=found.workflow,
        round_num=found.round_num,
        task=found.task,
        site=found.site,
        tensor=tensor,
        num_tensors=number,
        only_in=only_in,
    )


def _prints(file: Path, wanted: Model) -> dict[str, str]:
    """The digest of each tensor of a model."""
    names: list[str] = []
    found: dict[str, str] = {}
    for model, line in _models(file):
        if model == _stage(wanted):
            names = line.names
        if model == wanted:
            found = {name: line.tensors[at * _PRINT : (at + 1) * _PRINT] for at, name in enumerate(line.names or names)}
    return found
