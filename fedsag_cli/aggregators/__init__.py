"""The contract of an aggregator, which merges the clients' updates one by one."""

from __future__ import annotations

from typing import Protocol

from fedsag_cli.model import FLModel


class Aggregator(Protocol):
    """Merges the updates of one round: it gets them one by one, in site order, and returns the merged update.

    An aggregator that leaves out params by their names can have a method `excludes(name)`, which says whether it does.
    With it, updates may have such keys that the model does not have.
    """

    def accept(self, site: str, update: FLModel) -> None:
        """Add one client's update. Raises TensorError if it does not fit the earlier ones."""

    def aggregate(self) -> FLModel:
        """The merged update of all that were accepted since the last call; its params are empty if there were none."""
