"""Pages for a browser: of one run, `report.html`, and of several compared. Each is one file and needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedsag_cli.report import Report

if TYPE_CHECKING:
    from fedsag_cli.pages.swept import Table

INSTALL = "pip install 'fedsag[charts]'"
"""What a page needs to have charts. Without them, it has the same numbers in tables."""


def write(report: Report, events: Path, target: Path, number: int = 0, parent: int = 0) -> None:
    """Write the page of a run. Raises OSError.

    `report`: as report.json has it, without secrets. `events`: the run's events.jsonl, which may be missing or damaged.
    `number`: the run's, 0 if it has none. `parent`: of a fork, that of the run that it was made of.
    """
    from fedsag_cli.pages import activity, document, run

    page = run.page_of(report, activity.read(events, report.times.get("run_finished_s", 0.0)), number, parent)
    document.write(target, report.job or "run", page)


def comparison(reports: Sequence[Report], target: Path, names: Sequence[str] = ()) -> None:
    """Write the page that compares runs, from their report.json. Raises OSError.

    `names`: what the reader calls them; by default, the names of their jobs.
    """
    from fedsag_cli.pages import compared, document

    document.write(target, f"{len(reports)} runs compared", compared.page_of(reports, names))


def sweep(table: Table, reports: Sequence[Report], names: Sequence[str], target: Path) -> None:
    """Write the page of a sweep. Raises OSError.

    `reports`: of the runs whose curves are shown, as report.json has them; `names`: what the reader calls them.
    """
    from fedsag_cli.pages import document, swept

    document.write(target, table.title, swept.page_of(table, reports, names))


def has_charts() -> bool:
    """Whether a page that is written now has charts."""
    from fedsag_cli.pages import document

    return document.library() is not None
