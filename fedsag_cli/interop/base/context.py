"""Where a component of NVFLARE finds what is around it: the context, the engine, the workspace; and its base class."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from fedsag_cli.errors import ClientError
from fedsag_cli.interop.constants import ReservedKey
from fedsag_cli.workspace import SERVER

__all__ = ["Engine", "FLComponent", "FLContext", "Signal", "Workspace"]


class _Known:
    """An object of which fedsag has only what users' own code needs. A name that it lacks is an error that says so."""

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(f"fedsag's {type(self).__name__} has no {name!r}, which NVFLARE's may have")


class Signal(_Known):
    """Whether a task was aborted. fedsag ends the process instead, so it is never triggered from outside."""

    def __init__(self, parent: Signal | None = None) -> None:
        self._value: Any = None
        self._triggered, self._parent = False, parent

    def trigger(self, value: Any) -> None:
        self._value, self._triggered = value, True

    def reset(self, value: Any = None) -> None:
        self._value, self._triggered = value, False

    @property
    def value(self) -> Any:
        return self._value

    @property
    def triggered(self) -> bool:
        return self._triggered or (self._parent is not None and self._parent.triggered)


class Workspace(_Known):
    """The folders of this process, as texts."""

    def __init__(self, app: Path) -> None:
        """`app`: the folder of the app in the workspace, W/<site>/simulate_job/app_<site>."""
        self._app = app

    def get_root_dir(self) -> str:
        return str(self._app.parent.parent)

    def get_run_dir(self, job_id: str = "") -> str:  # noqa: ARG002  a process has one job
        return str(self._app.parent)

    def get_app_dir(self, job_id: str = "") -> str:  # noqa: ARG002
        return str(self._app)

    def get_app_custom_dir(self, job_id: str = "") -> str:  # noqa: ARG002
        return str(self._app / "custom")

    def get_app_config_dir(self, job_id: str = "") -> str:  # noqa: ARG002
        return str(self._app / "config")


class Engine(_Known):
    """Knows the components of this process by their ids."""

    def __init__(self, workspace: Workspace, components: Mapping[str, Any]) -> None:
        self._workspace, self._components = workspace, components
        self.listeners: list[Any] = list(components.values())
        """The components that hear of events."""

    def get_component(self, component_id: str) -> Any:
        """The component; None if there is none."""
        return self._components.get(component_id)

    def get_all_components(self) -> dict[str, Any]:
        return dict(self._components)

    def get_workspace(self) -> Workspace:
        return self._workspace

    def fire_event(self, event_type: str, fl_ctx: FLContext) -> None:
        for each in self.listeners:
            if callable(handle := getattr(each, "handle_event", None)):
                handle(event_type, fl_ctx)


class FLContext(_Known):
    """Properties by name. The process has one, which every component gets."""

    def __init__(self, site: str = "", job_id: str = "", engine: Engine | None = None) -> None:
        self._engine = engine
        self.peer = SERVER
        """The name of the other side."""
        self._props: dict[str, Any] = {
            ReservedKey.IDENTITY_NAME: site,
            ReservedKey.CLIENT_NAME: site,
            ReservedKey.RUN_NUM: job_id,
            ReservedKey.ENGINE: engine,
        }
        if engine is not None:
            workspace = engine.get_workspace()
            self._props |= {
                ReservedKey.WORKSPACE_OBJECT: workspace,
                ReservedKey.WORKSPACE_ROOT: workspace.get_root_dir(),
                ReservedKey.APP_ROOT: workspace.get_app_dir(),
            }

    def get_prop(self, key: str, default: Any = None) -> Any:
        return self._props.get(key, default)

    def set_prop(self, key: str, value: Any, private: bool = True, sticky: bool = True) -> bool:  # noqa: ARG002
        self._props[key] = value
        return True

    def remove_prop(self, key: str, force_removal: bool = False) -> None:  # noqa: ARG002
        self._props.pop(key, None)

    def get_prop_keys(self) -> list[str]:
        return list(self._props)

    def get_engine(self, default: Any = None) -> Any:
        return self._engine or default

    def get_workspace(self) -> Any:
        return self.get_prop(ReservedKey.WORKSPACE_OBJECT)

    def get_identity_name(self, default: str = "") -> str:
        return str(self.get_prop(ReservedKey.IDENTITY_NAME, default))

    def get_job_id(self, default: Any = None) -> Any:
        return self.get_prop(ReservedKey.RUN_NUM, default)

    def get_peer_context(self) -> FLContext:
        """That of the other side: it knows only its name and that of the job."""
        return FLContext(site=self.peer, job_id=self.get_job_id(""))


class FLComponent:
    """The base of NVFLARE's components: it logs, and hears of events."""

    _name: str
    logger: logging.Logger
    unsafe: bool

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:  # noqa: ARG004  they are for __init__
        """All that the methods need: a user's class may have an `__init__` that does not call this one's."""
        made = super().__new__(cls)
        made._name = cls.__name__
        made.logger = logging.getLogger(cls.__name__)
        made.unsafe = False
        return made

    def __init__(self) -> None:
        """It takes no arguments."""

    @property
    def name(self) -> str:
        return self._name

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Called for every event."""

    def fire_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Tell all components of this process."""
        fl_ctx.get_engine().fire_event(event_type, fl_ctx)

    def system_panic(self, reason: str, fl_ctx: FLContext) -> NoReturn:  # noqa: ARG002
        """End this process. Raises ClientError."""
        raise ClientError(f"{self._name}: {reason}")

    def log_debug(self, fl_ctx: FLContext, msg: str, fire_event: bool = False) -> None:  # noqa: ARG002
        self.logger.debug(msg)

    def log_info(self, fl_ctx: FLContext, msg: str, fire_event: bool = False) -> None:  # noqa: ARG002
        self.logger.info(msg)

    def log_warning(self, fl_ctx: FLContext, msg: str, fire_event: bool = True) -> None:  # noqa: ARG002
        self.logger.warning(msg)

    def log_error(self, fl_ctx: FLContext, msg: str, fire_event: bool = True) -> None:  # noqa: ARG002
        self.logger.error(msg)

    def log_critical(self, fl_ctx: FLContext, msg: str, fire_event: bool = True) -> None:  # noqa: ARG002
        self.logger.critical(msg)

    def log_exception(self, fl_ctx: FLContext, msg: str, fire_event: bool = False) -> None:  # noqa: ARG002
        """With the traceback of the exception that is being handled."""
        self.logger.exception(msg)
