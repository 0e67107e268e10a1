"""A job folder, read once into types: what to run, where, with which settings.

JOB/meta.conf                       name, min_clients, deploy_map
JOB/<app>/config/config_fed_server.conf
JOB/<app>/config/config_fed_client.conf
JOB/<app>/custom/                   the user's modules and scripts
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedsag_cli.catalog import ComponentSpec
from fedsag_cli.messages import ClientConfig, FilterSpec

SERVER = "server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """What meta.conf says. `deploy_map` maps an app's name to its sites; ("@ALL",) means every one."""

    name: str
    min_clients: int = 1
    mandatory_clients: Sequence[str] = ()
    deploy_map: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """config_fed_server, its placeholders resolved: workflows in order, components by id."""

    workflows: Sequence[ComponentSpec]
    components: Sequence[ComponentSpec]
    task_data_filters: Sequence[FilterSpec] = ()
    task_result_filters: Sequence[FilterSpec] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientApp:
    """config_fed_client, its placeholders resolved for one site: what to start, and what the Client API must know.

    `command` is the argument vector, the script's path as written in the job (relative to the app's folder).
    `script` is that path where the command is `python [-u] SCRIPT ARGS`, else None.
    """

    command: Sequence[str]
    script: str | None
    config: ClientConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """One app folder of a job."""

    name: str
    folder: Path

    @property
    def custom(self) -> Path:
        return self.folder / "custom"

    @property
    def has_server(self) -> bool: ...

    @property
    def has_client(self) -> bool: ...

    def server(self, variables: Mapping[str, str]) -> ServerConfig:
        """Raises JobError naming file and key."""
        ...

    def client(self, variables: Mapping[str, str]) -> ClientApp:
        """`variables` are the system's: SITE_NAME, WORKSPACE, JOB_ID, JOB_CUSTOM_DIR, … Raises JobError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job folder that has been read and checked."""

    folder: Path
    meta: Meta
    apps: Mapping[str, App]

    @classmethod
    def load(cls, folder: Path) -> Job:
        """Raises JobError naming file, key, value, and the nearest known name."""
        ...

    def named_sites(self) -> list[str]:
        """The clients deploy_map names, in its order; empty where it says @ALL."""
        ...

    def app_for(self, site: str) -> App:
        """The app deployed to `site` (SERVER for the server's). Raises JobError naming the site."""
        ...
