"""The data of the page of a sweep: a table with a row for each variation, and the curves of the best runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from fedsag_cli.pages import compared
from fedsag_cli.report import Report


class Table(NamedTuple):
    """`lead`: what the reader should know first. `columns`: names; cells are texts, or numbers, or None."""

    title: str
    lead: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | float | None]]


def page_of(table: Table, reports: Sequence[Report], names: Sequence[str]) -> dict[str, Any]:
    """What the scripts of the page show. `reports`: of the runs with curves; `names`: what the reader calls them."""
    return compared.page_of(reports, names) | {"kind": "sweep", **table._asdict()}
