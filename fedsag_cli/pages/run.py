"""The data of the page of one run: its report and its activity, with as many numbers as 2 MB can hold."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from fedsag_cli.events import Failure, Metrics
from fedsag_cli.pages import chosen, curves, timeline
from fedsag_cli.pages.activity import Activity
from fedsag_cli.pages.numbers import packed, some
from fedsag_cli.report import Report, RoundReport, TableReport, baselines, over_sites
from fedsag_cli.report.alike import Kind, kind_of

_MOST_ROWS = 400  # of the table of rounds
_MOST_BARS = 240
_MOST_SITE_METRICS = 6
_MOST_CELLS = 8000  # of all result tables
_MOST_TAILS = 12  # kinds of failures with their logs
_MOST_NAMED = 20  # sites that failed alike
_MOST_SETTINGS = 600
_MOST_TEXTS = 60  # of notices, models …
_LONGEST = 2000  # characters of one text

Page = dict[str, Any]


def page_of(report: Report, activity: Activity, number: int = 0, parent: int = 0) -> Page:
    """What the scripts of a page show. All of it is plain JSON; a block that has nothing is empty."""
    named = chosen.sites_of(report)
    return {
        "kind": "run",
        "head": _head(report) | {"run": number, "fork": _fork(report, parent)},
        "workflows": curves.by_workflow(report, named.names),
        "rounds": _rounds(report),
        "stages": _stages(report, activity),
        "sites": _sites(report, named),
        "timeline": timeline.of(report.sites, activity),
        "failures": _failures(report, activity),
        "logged": curves.logged(activity, report.sites),
        "tables": _tables([*_baselines(report, number), *report.tables]),
        "privacy": _privacy(report.rounds),
        "settings": _settings(report),
        "details": _details(report),
    }


def _head(report: Report) -> Page:
    whole = [each.total_s for each in report.rounds if each.is_whole]
    return {
        "job": report.job,
        "template": report.template,
        "began": report.began,
        "ok": report.ok,
        "exit_code": report.exit_code,
        "cause": report.cause[:_LONGEST],
        "hint": report.hint[:_LONGEST],
        "rounds": report.rounds_done,
        "sites": len(report.sites),
        "failed_sites": len(report.failures),
        "seconds": report.seconds,
        "seconds_a_round": fmean(whole) if whole else None,
        "resumed": report.earlier_s > 0,
        "sent": sum(each.bytes_sent for each in report.rounds),
        "received": sum(each.bytes_received for each in report.rounds),
        "final": report.final_metrics,
        "last": next((each.metrics for each in reversed(report.rounds) if each.metrics), {}),
        "best": None
        if report.best is None
        else {
            "metric": report.best.metric,
            "score": report.best.score,
            "round": report.best.round_num,
            "is_final": report.best.is_final,
        },
    }


def _fork(report: Report, parent: int) -> str:
    """Of which run it is a fork; empty if it is none."""
    if not report.parent:
        return ""
    return f"fork of {f'run {parent}' if parent else 'another run'} after round {report.parent_round}"


def _rounds(report: Report) -> Page:
    """The rows of the table of rounds; of many rounds, some."""
    places = some(len(report.rounds), _MOST_ROWS)
    measured = dict.fromkeys(name for at in places for name in report.rounds[at].metrics)
    names = curves.best_first(measured, report)[: curves.MOST_METRICS]
    rows = []
    for each in (report.rounds[at] for at in places):
        answered = f"{len(each.answered)} of {len(each.asked)}" if each.is_whole else "not complete"
        rows.append([each.workflow, each.round_num, *map(each.metrics.get, names), answered, each.total_s])
    return {"count": len(report.rounds), "metrics": names, "rows": rows}


def _stages(report: Report, activity: Activity) -> Page:
    """Where the time went and how many bytes travelled, in all and by round; of many rounds, some are summed.

    Of a fork, its own rounds.
    """
    rounds, times = report.rounds[report.inherited_rounds :], report.times
    waited, aggregated = sum(each.wait_s for each in rounds), sum(each.aggregate_s for each in rounds)
    saved, whole = sum(each.save_s for each in rounds), sum(each.total_s for each in rounds)
    ended = report.seconds or 0.0
    started = min(activity.starting or times.get("server_ready_s", ended), ended)
    within = {
        "starting": started,
        "clients work": waited,
        "aggregation": aggregated,
        "saving": saved,
        "rest of the rounds": max(0.0, whole - waited - aggregated - saved),
    }
    within["outside complete rounds"] = max(0.0, ended - started - whole)
    step = -(-len(rounds) // _MOST_BARS) or 1
    groups = [rounds[at : at + step] for at in range(0, len(rounds), step)]
    return {
        "total": {name: round(seconds, 4) for name, seconds in within.items()},
        "step": step,
        "labels": [_span_of(group) for group in groups],
        "series": {
            "clients work": [round(sum(each.wait_s for each in group), 4) for group in groups],
            "aggregation": [round(sum(each.aggregate_s for each in group), 4) for group in groups],
            "saving": [round(sum(each.save_s for each in group), 4) for group in groups],
            "rest": [
                round(max(0.0, sum(each.total_s - each.wait_s - each.aggregate_s - each.save_s for each in group)), 4)
                for group in groups
            ],
        },
        "bytes": {
            "sent to clients": [sum(each.bytes_sent for each in group) for group in groups],
            "received": [sum(each.bytes_received for each in group) for group in groups],
        },
    }


def _span_of(group: Sequence[RoundReport]) -> str:
    first, last = group[0].round_num, group[-1].round_num
    return f"{first}" if len(group) == 1 else f"{first}–{last}"


def _sites(report: Report, named: chosen.Chosen) -> Page:
    """One row a site: its last metrics, samples where told, answers, failures, seconds of all tasks and of the longest.

    Of many sites, also the quantiles of these.
    """
    measured = next((each.metrics for each in reversed(report.rounds) if each.metrics), {})
    names = curves.best_first(measured, report)[:_MOST_SITE_METRICS]
    answers: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    spent: dict[str, float] = defaultdict(float)
    for each in report.rounds:
        answers.update(each.answered)
        failed.update(each.failed.keys())
        for site, seconds in each.work_s.items():
            spent[site] += seconds
    longest = over_sites.longest_tasks(report)
    last = chosen.last_metrics(report)
    nothing: Metrics = {}

    def row(site: str) -> list[Any]:
        own = last.get(site, nothing)
        most = longest[site].seconds if site in longest else 0.0
        samples = [report.samples.get(site)] if report.samples else []
        seconds = round(spent.get(site, 0.0), 4), round(most, 4)
        return [*map(own.get, names), *samples, answers[site], failed[site], *seconds]

    took_part = answers.keys() | failed.keys() | last.keys()
    return {
        "metrics": names,
        "has_samples": bool(report.samples),
        "rows": [[site, *row(site)] for site in named.names],
        "took_part": named.took_part,
        "quantiles": _quantiles_of(map(row, took_part)) if named.took_part > over_sites.MANY else [],
    }


def _quantiles_of(rows: Iterable[Sequence[float | None]]) -> list[list[float]]:
    """For each column, its quantiles; nothing where no row has a value."""
    return [list(over_sites.quantiles(column) or ()) for column in zip(*rows, strict=True)]


def _failures(report: Report, activity: Activity) -> list[Page]:
    """Failures that are alike are one, with their sites; the log is that of the first."""
    kinds: dict[Kind, Page] = {}
    found: list[tuple[str, int | None, str, Failure]] = [
        (site, first.round_num, first.task, first.failure) for site, first in report.failures.items()
    ]
    found += [(site, None, "", failure) for site, failure in report.final_failed.items() if site not in report.failures]
    found += [(name, None, "", failure) for name, failure in activity.failed.items() if not report.ok]
    for site, round_num, task, failure in found:
        kind = kind_of(site, failure)
        if kind in kinds:
            kinds[kind]["count"] += 1
            if len(kinds[kind]["sites"]) < _MOST_NAMED:
                kinds[kind]["sites"].append(site)
            continue
        kinds[kind] = {
            "sites": [site],
            "count": 1,
            "round": round_num,
            "task": task,
            "cause": failure.cause[:_LONGEST],
            "where": failure.where,
            "log": failure.log,
            "tail": [line[:_LONGEST] for line in failure.log_tail[-40:]] if len(kinds) < _MOST_TAILS else [],
        }
    return list(kinds.values())[:_MOST_TEXTS]


def _baselines(report: Report, number: int) -> list[TableReport]:
    """The run beside its baselines, as a table."""
    found = baselines.rows(report, number)
    name = baselines.metric_of(report) or "metric"
    columns = ["training", name, "lowest site", "highest site", "steps", "seconds", "run"]
    rows: list[list[str | float | None]] = [
        [
            f"{each.kind}: {each.cause}" if each.cause else each.kind,
            each.value,
            min(each.values, default=None),
            max(each.values, default=None),
            each.num_steps,
            each.seconds,
            each.run or None,
        ]
        for each in found
    ]
    return [TableReport(title="What federation costs and gains", columns=columns, rows=rows)] if rows else []


def _tables(tables: Sequence[TableReport]) -> list[Page]:
    shown, room = [], _MOST_CELLS
    for each in tables:
        most = max(1, room // max(1, len(each.columns)))
        rows = [
            [cell[:_LONGEST] if isinstance(cell, str) else cell for cell in row[:_MOST_CELLS]]
            for row in each.rows[:most]
        ]
        room = max(0, room - sum(map(len, rows)))
        shown.append(
            {
                "title": each.title,
                "workflow": each.workflow,
                "columns": each.columns[:_MOST_CELLS],
                "rows": rows,
                "count": len(each.rows),
            }
        )
    return shown


def _privacy(rounds: Sequence[RoundReport]) -> Page:
    """The epsilon that was spent after each round; infinity is missing."""
    spent = [(each.round_num, each.privacy) for each in rounds if each.privacy]
    if not spent:
        return {}
    shown = [spent[at] for at in some(len(spent), curves.MOST_ROUNDS)]
    last = shown[-1][1]
    return {
        "rounds": [round_num for round_num, _ in shown],
        "epsilon": packed([each.epsilon for _, each in shown]),
        "last": last.epsilon,
        "delta": last.delta,
        "mechanism": last.mechanism[:_LONGEST],
    }


def _settings(report: Report) -> list[Page]:
    """Each setting; those that differ from the template first, with its value. None: there it is not set."""

    def of(settings: Mapping[str, Any], key: str) -> str | None:
        return None if settings.get(key) is None else text_of(settings[key])

    differing = [
        {"key": key, "value": of(report.settings, key), "template": of(report.changed, key)} for key in report.changed
    ]
    alike = [{"key": key, "value": of(report.settings, key)} for key in report.settings if key not in report.changed]
    return [*differing, *alike][:_MOST_SETTINGS]


def text_of(value: Any) -> str:
    """A setting as a text."""
    return (value if isinstance(value, str) else curves.json_text(value))[:_LONGEST]


def _details(report: Report) -> Page:
    return {
        "workspace": report.workspace,
        "seed": report.seed,
        "slots": report.slots,
        "threads": report.threads,
        "launcher": report.launcher,
        "digest": report.digest,
        "versions": report.versions,
        "resumed_at": report.resumed_at,
        "models": report.models[:_MOST_TEXTS],
        "curves": report.curves[:_MOST_TEXTS],
        "notices": [text[:_LONGEST] for text in report.notices[:_MOST_TEXTS]],
        "seeded_themselves": report.seeded_themselves[:_MOST_TEXTS],
        "exit_codes": {name: code for name, code in list(report.exit_codes.items()) if code},
    }
