"""In what runs differ: their settings, their seeds, their clients, the versions that they ran with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from fedsag_cli.report import Report

_FILE = re.compile(r"[\w.-]+\.(conf|json|yml|yaml) ")
_OPTION = re.compile(r"\s+(?=--?[A-Za-z])")  # what stands before an option of a command line
_GENERAL = {"id", "path", "name", "args", "tasks"}  # words that do not say whose they are
_JOB = "meta.conf name"  # is the name of the job


def settings(reports: Sequence[Report], *, whole: bool = True) -> dict[str, list[Any]]:
    """Each setting that is not the same in all runs, and its value in each; None where a run has none.

    A run of an older version, which told no settings, is not compared by them. `whole`: with the versions and how the
    run was started, which differ from run to run though the job is the same.
    """
    return _differing([_facts(report, whole) for report in reports]) | _differing(list(map(_told, reports)))


def by_hand_first(names: Iterable[str], reports: Sequence[Report]) -> list[str]:
    """The settings in an order: the job, those that were changed by hand, the most often first, then all others."""
    often = {name: sum(name in report.changed for report in reports) for name in names}
    kinds = {name: 0 if name == "job" else 1 if often[name] else 3 if _FILE.match(name) else 2 for name in often}
    return sorted(often, key=lambda name: (kinds[name], -often[name]))


def is_by_hand(name: str, reports: Sequence[Report]) -> bool:
    """Whether a setting is one that a user gave, and not one that another template brought."""
    return not _FILE.match(name) or any(name in report.changed for report in reports)


def without_common_options(values: Sequence[Any]) -> list[Any]:
    """Of command lines, only the options that are not in all of them, or None; other values as they are."""
    texts = [value for value in values if value is not None]
    if not all(isinstance(text, str) for text in texts):
        return list(values)
    options = [_OPTION.split(value) if value is not None else [] for value in values]
    common = set.intersection(*(set(_OPTION.split(text)) for text in texts)) if texts else set()
    own = [" ".join(each for each in found if each not in common) or None for found in options]
    return list(values) if len(set(own)) < len(set(values)) else own


def _differing(runs: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    known = [each for each in runs if each]
    names = dict.fromkeys(name for each in known for name in each)
    # with ==, 1 would be equal to true
    differ = [name for name in names if len({repr(each.get(name)) for each in known}) > 1]
    return {name: [each.get(name) for each in runs] for name in differ}


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


def _facts(report: Report, whole: bool) -> dict[str, Any]:
    known: dict[str, Any] = {"job": report.job, "clients": len(report.sites), "seed": report.seed}
    if whole:
        known |= {"clients at a time": report.slots, "torch threads": report.threads}
        known["launcher"] = report.launcher
        known |= {f"version of {name}": version for name, version in report.versions.items()}
    return known


def _told(report: Report) -> dict[str, Any]:
    if not report.settings:
        return {}
    own = {name: value for name, value in report.settings.items() if name != _JOB}
    return {"template": report.template or None, **own}
