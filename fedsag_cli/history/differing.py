"""In what runs differ: their settings, their seeds, their clients, the versions that they ran with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from fedsag_cli.report import Report

_FILE = re.compile(r"[\w.-]+\.(conf|json|yml|yaml) ")
_GENERAL = {"id", "path", "name", "args", "tasks"}  # words that do not say whose they are
_JOB = "meta.conf name"  # is the name of the job


def settings(reports: Sequence[Report], *, chance: bool = True) -> dict[str, list[Any]]:
    """Each setting that is not the same in all runs, and its value in each; None where a run has none.

    Without `chance`, those that differ by themselves from run to run, such as a seed, are left out.
    """
    every = [_of(report, chance) for report in reports]
    names = dict.fromkeys(name for each in every for name in each)
    values = {name: [each.get(name) for each in every] for name in names}
    return {name: of_runs for name, of_runs in values.items() if any(value != of_runs[0] for value in of_runs)}


def short_names(names: Sequence[str]) -> dict[str, str]:
    """For each name of a setting, as much of its end as tells it from the others, and what it is."""
    words = {name: name.partition(" ")[2].split(".") for name in names if _FILE.match(name)}
    short = {name: name for name in names}
    for name, parts in words.items():
        others = [other for named, other in words.items() if named != name]
        least = 2 if parts[-1] in _GENERAL else 1
        for size in range(least, len(parts) + 1):
            if not any(other[-size:] == parts[-size:] for other in others):
                short[name] = ".".join(parts[-size:])
                break
    return short


def _of(report: Report, chance: bool) -> dict[str, Any]:
    known: dict[str, Any] = {"job": report.job, "template": report.template or None, "clients": len(report.sites)}
    if chance:
        known |= {"seed": report.seed, "torch threads": report.threads}
        known |= {f"version of {name}": version for name, version in report.versions.items()}
    return known | {name: value for name, value in report.settings.items() if name != _JOB}
