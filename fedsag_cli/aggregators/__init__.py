"""The contract of an aggregator: a fold over the clients' updates."""

from __future__ import annotations

from typing import Protocol

from fedsag_cli.model import FLModel


class Aggregator(Protocol):
    """Takes one round's updates one by one, in site order, and gives what they come to."""

    def accept(self, site: str, update: FLModel) -> None:
        """Fold one client's update in. Raises TensorError if it does not fit those before it."""

    def aggregate(self) -> FLModel:
        """The result of what was accepted since the last call, empty params where nothing was; starts anew."""
