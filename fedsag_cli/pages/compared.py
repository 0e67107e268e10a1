"""The data of the page that compares runs: the settings that differ, curves by metric, and what came out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedsag_cli import foreign
from fedsag_cli.pages.curves import MOST_METRICS, MOST_ROUNDS
from fedsag_cli.pages.numbers import packed, some
from fedsag_cli.pages.run import text_of
from fedsag_cli.params.metrics import looks_lower_is_better
from fedsag_cli.report import Report, curves, differing

_MOST_SETTINGS = 400
_MOST_WORDS, _LONGEST_WORDS = 3, 40  # of what is said beside the name of a run

Page = dict[str, Any]


def page_of(reports: Sequence[Report], names: Sequence[str]) -> Page:
    """What the scripts of a page show. A run without a name is called as its job."""
    called = [names[at] if at < len(names) else report.job or f"run {at + 1}" for at, report in enumerate(reports)]
    called = [f"{name} ({at + 1})" if called.count(name) > 1 else name for at, name in enumerate(called)]
    return {
        "kind": "comparison",
        "runs": [_run(*each) for each in zip(called, _differences(reports), reports, strict=True)],
        "settings": _settings(reports),
        "metrics": _metrics(reports),
    }


def _differences(reports: Sequence[Report]) -> list[str]:
    """In what each run differs, in a few words: settings that users have changed."""
    differ = differing.settings(reports, whole=False)
    changed = {setting for report in reports for setting in report.changed}
    chosen = [setting for setting in differ if setting in changed][:_MOST_WORDS]
    short = differing.short_names(list(differ))
    return [
        ", ".join(
            foreign.shortened(f"{short[setting]} {text_of(value)}", _LONGEST_WORDS)
            for setting in chosen
            if (value := differ[setting][at]) is not None
        )
        for at in range(len(reports))
    ]


def _run(name: str, differs: str, report: Report) -> Page:
    return {
        "name": name,
        "differs": differs,
        "job": report.job,
        "began": report.began,
        "workspace": report.workspace,
        "ok": report.ok,
        "exit_code": report.exit_code,
        "cause": report.cause[:500],
        "rounds": report.rounds_done,
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
            "best": _best(reports, name),
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


def _best(reports: Sequence[Report], metric: str) -> Page:
    """The best value of each run, and the places of the runs that have the best of all."""
    tops = [curves.best(report, metric) for report in reports]
    values = [None if top is None else top.value for top in tops]
    known = [value for value in values if value is not None]
    winner = (min if looks_lower_is_better(metric) else max)(known, default=None)
    return {"values": values, "of": [at for at, value in enumerate(values) if value is not None and value == winner]}
