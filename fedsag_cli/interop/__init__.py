"""The contract of a translation: what another system's config file says, in our words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Translation(Protocol):
    def __call__(self, values: Mapping[str, Any], *, stem: str, file: str) -> tuple[dict[str, Any], list[str]]:
        """The values of `file`, a "config_fed_server" or "config_fed_client" by its `stem`, and what to tell the user.

        What is ours already stays as it is. Raises JobError naming what has no counterpart.
        """
