"""Components that users derive from NVFLARE's FLComponent, such as one that splits a data set when the run starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedsag_cli.interop.base.context import Engine, FLComponent, FLContext, Workspace
from fedsag_cli.workspace import JOB_ID, SERVER


class Listeners:
    """The server's components that hear of events. They run in the server's app folder."""

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self._engine = Engine(Workspace(Path.cwd()), parts)
        self._engine.listeners = [part for part in parts.values() if isinstance(part, FLComponent)]

    def tell(self, event_type: str) -> None:
        """Let each handle the event. Raises what it raises."""
        self._engine.fire_event(event_type, FLContext(SERVER, JOB_ID, self._engine))
