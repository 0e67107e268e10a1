"""A client's place among the sites of its run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """`index`: from 0 on, in the order of the run's sites. `count`: the number of sites. `name`: such as "site-1"."""

    index: int
    count: int
    name: str
