"""The contract of an aggregator: it merges the clients' updates one by one."""

from __future__ import annotations

from typing import Protocol

from fedsag_cli.model import FLModel


class Aggregator(Protocol):
    """Merges the updates of one round. It gets them one by one, in site order."""

    def accept(self, site: str, update: FLModel) -> None:
        """Add the update of one client. Raises TensorError if it does not fit the updates before it."""

    def aggregate(self) -> FLModel:
        """The merged update of all that were accepted since the last call; without any, its params are empty."""
