"""The data of the page that compares runs: the settings that differ, curves by metric, and what came out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fedsag_cli.pages.curves import MOST_METRICS, MOST_ROUNDS
from fedsag_cli.pages.numbers import packed, some
from fedsag_cli.pages.run import text_of
from fedsag_cli.report import Report

_MOST_SETTINGS = 400

Page = dict[str, Any]


def page_of(reports: Sequence[Report], names: Sequence[str]) -> Page:
    """What the scripts of a page show. A run without a name is called as its job."""
    called = [names[at] if at < len(names) else report.job or f"run {at + 1}" for at, report in enumerate(reports)]
    called = [f"{name} ({at + 1})" if called.count(name) > 1 else name for at, name in enumerate(called)]
    return {
        "kind": "comparison",
        "runs": [_run(name, report) for name, report in zip(called, reports, strict=True)],
        "settings": _differences(reports),
        "metrics": _metrics(reports),
    }


def _run(name: str, report: Report) -> Page:
    return {
        "name": name,
        "job": report.job,
        "began": report.began,
        "workspace": report.workspace,
        "ok": report.ok,
        "exit_code": report.exit_code,
        "cause": report.cause[:500],
        "rounds": sum(each.is_whole for each in report.rounds),
        "sites": len(report.sites),
        "seconds": report.times.get("run_finished_s"),
        "bytes": sum(each.bytes_sent + each.bytes_received for each in report.rounds),
        "digest": report.digest,
        "failed_sites": len(report.failures),
        "best": None if report.best is None else [report.best.metric, report.best.score],
    }


_FACTS: dict[str, Callable[[Report], Any]] = {
    "job": lambda report: report.job,
    "template": lambda report: report.template,
    "seed": lambda report: report.seed,
    "sites": lambda report: len(report.sites),
    "clients at a time": lambda report: report.slots,
    "threads": lambda report: report.threads,
    "launcher": lambda report: report.launcher,
}


def _differences(reports: Sequence[Report]) -> list[Page]:
    """What is not the same in all runs. A run without any settings, made by an older version, is not compared by them.

    None where a run has no such setting.
    """
    rows: list[tuple[str, Sequence[str | None]]] = [
        *((name, [text_of(fact(each)) for each in reports]) for name, fact in _FACTS.items()),
        *((name, [each.versions.get(name) for each in reports]) for name in _keys(each.versions for each in reports)),
    ]
    differing = [(key, values) for key, values in rows if len(set(values)) > 1]
    for key in _keys(each.settings for each in reports):
        values = [text_of(each.settings[key]) if key in each.settings else None for each in reports]
        if len({value for value, each in zip(values, reports, strict=True) if each.settings}) > 1:
            differing.append((key, values))
    return [{"key": key, "values": values} for key, values in differing[:_MOST_SETTINGS]]


def _keys(all_of: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for each in all_of for key in each))


def _metrics(reports: Sequence[Report]) -> list[Page]:
    names = dict.fromkeys(name for report in reports for each in report.rounds for name in each.metrics)
    names.update(dict.fromkeys(name for report in reports for name in report.final_metrics))
    chosen = [[report.rounds[at] for at in some(len(report.rounds), MOST_ROUNDS)] for report in reports]
    longest = max(map(len, chosen), default=0)
    most = max(
        2, MOST_ROUNDS if longest * len(reports) * len(names) < 100_000 else 100_000 // len(reports) // len(names)
    )
    chosen = [[rounds[at] for at in some(len(rounds), most)] for rounds in chosen]
    return [
        {
            "name": name,
            "runs": [
                {
                    "rounds": [each.round_num for each in rounds],
                    "values": packed([each.metrics.get(name) for each in rounds]),
                    "final": report.final_metrics.get(name),
                    "last": next(
                        (each.metrics[name] for each in reversed(report.rounds) if name in each.metrics), None
                    ),
                }
                for rounds, report in zip(chosen, reports, strict=True)
            ],
        }
        for name in list(names)[:MOST_METRICS]
    ]
