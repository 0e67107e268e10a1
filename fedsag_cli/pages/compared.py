"""The data of the page that compares runs: the settings that differ, curves by metric, and what came out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedsag_cli.pages.curves import MOST_METRICS, MOST_ROUNDS
from fedsag_cli.pages.numbers import packed, some
from fedsag_cli.pages.run import text_of
from fedsag_cli.report import Report, curves, differing

_MOST_SETTINGS = 400

Page = dict[str, Any]


def page_of(reports: Sequence[Report], names: Sequence[str]) -> Page:
    """What the scripts of a page show. A run without a name is called as its job."""
    called = [names[at] if at < len(names) else report.job or f"run {at + 1}" for at, report in enumerate(reports)]
    called = [f"{name} ({at + 1})" if called.count(name) > 1 else name for at, name in enumerate(called)]
    return {
        "kind": "comparison",
        "runs": [_run(name, report) for name, report in zip(called, reports, strict=True)],
        "settings": _settings(reports),
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
        "seconds": report.seconds,
        "bytes": sum(each.bytes_sent + each.bytes_received for each in report.rounds),
        "digest": report.digest,
        "failed_sites": len(report.failures),
        "best": None if report.best is None else [report.best.metric, report.best.score],
    }


def _settings(reports: Sequence[Report]) -> list[Page]:
    """Those that are not the same in all runs. None where a run has no such setting."""
    found = list(differing.settings(reports).items())[:_MOST_SETTINGS]
    return [
        {"key": key, "values": [None if each is None else text_of(each) for each in values]} for key, values in found
    ]


def _metrics(reports: Sequence[Report]) -> list[Page]:
    names = dict.fromkeys(name for report in reports for name in curves.metrics_of(report))
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
                    "last": curves.final(report, name),
                }
                for rounds, report in zip(chosen, reports, strict=True)
            ],
        }
        for name in list(names)[:MOST_METRICS]
    ]
