"""Parts of runs that nobody ran: rounds of a report, and events."""

from fedsag_cli import events
from fedsag_cli.report import RoundReport

EVIL = "</script><img src=x onerror=alert(1)>"


def a_round(number, by_site, **other):
    """A whole round with these metrics by site; its own are their plain means."""
    metrics = {name: sum(own[name] for own in by_site.values()) / len(by_site) for name in next(iter(by_site.values()))}
    return RoundReport(
        workflow="sag",
        round_num=number,
        asked=list(by_site),
        answered=list(by_site),
        metrics=metrics,
        metrics_by_site=by_site,
        is_whole=True,
        **other,
    )


def started(at):
    return events.RunStarted(
        at=at, job="j", workspace="w", sites=["a", "b"], slots=1, threads=1, seed=1, launcher="fork", versions={}
    )


def task(kind, at, site, round_num=0, **other):
    return kind(at=at, site=site, task="train", round_num=round_num, **other)


def logged(at, values, step=None, kind="metric", site="a"):
    return events.ValuesLogged(at=at, site=site, kind=kind, values=values, step=step)
