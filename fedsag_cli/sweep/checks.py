"""What is checked before a sweep begins: every value of every key, without a process, as a run would check it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from fedsag_cli.errors import FedsagError, UsageError
from fedsag_cli.interop import reading
from fedsag_cli.job import Job
from fedsag_cli.job.templates.set_values import with_values
from fedsag_cli.plan import Plan
from fedsag_cli.simulator.options import Options
from fedsag_cli.simulator.planning import make_plan
from fedsag_cli.simulator.preloading import modules_of_server
from fedsag_cli.sweep.variations import Setting
from fedsag_cli.workspace import Workspace

_MOST_PLANS = 100  # of one key: of further values, only whether the job takes them is checked


class Checked(NamedTuple):
    """`job`: its name. `plan`: the identity of the first run's plan. `clients`: those of every run."""

    job: str
    plan: str
    clients: list[str]


def check(
    job: Path,
    settings: Sequence[Setting],
    options: Options,
    workspace: Path,
    prepare: Callable[[Sequence[str]], None],
) -> Checked:
    """Plan a run with the first value of each key, and one for each further value.

    `options`: those of a run. `prepare` is called with modules that the runs import. Raises JobError, UsageError.
    """
    first = [setting.words[0] for setting in settings]
    plan = planned(job, dataclasses.replace(options, sets=first), workspace, prepare)
    prepare(modules_of_server(plan.server))
    for at, setting in enumerate(settings):
        by_plan = {plan.identity: first[at]}
        for number, word in enumerate(setting.words[1:], start=1):
            sets = [*first[:at], word, *first[at + 1 :]]
            try:
                if number < _MOST_PLANS:
                    other = planned(job, dataclasses.replace(options, sets=sets), workspace, prepare)
                    prepare(modules_of_server(other.server))
                    if (same := by_plan.setdefault(other.identity, word)) != word:
                        raise UsageError(f"--set {same} and --set {word} are the same: two runs would be the same")
                else:
                    with_values(Job.load(job, reading.translate), sets)
            except FedsagError as error:
                if not error.message.startswith("--set "):
                    error.message = f"--set {word}: {error.message}"
                raise
    return Checked(job=plan.job, plan=plan.identity, clients=plan.names)


def planned(
    job: Path, options: Options, workspace: Path, prepare: Callable[[Sequence[str]], None] = lambda _: None
) -> Plan:
    """The plan of a run. Raises JobError, UsageError."""
    read = with_values(Job.load(job, reading.translate), options.sets)
    return make_plan(read, Workspace(workspace), options, prepare).plan
