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
from typing import TYPE_CHECKING, Any, Protocol

from fedsag_cli.errors import JobError, nearest
from fedsag_cli.job.config import files, hocon
from fedsag_cli.job.config.files import Bounds
from fedsag_cli.job.meta import ALL, SERVER, Meta
from fedsag_cli.job.section import Section

if TYPE_CHECKING:
    from fedsag_cli.plan import ClientConfig, ComponentSpec, FilterSpec

__all__ = ["SERVER", "App", "ClientApp", "Job", "Meta", "ServerConfig", "Translate", "as_written"]

SERVER_FILE = "config_fed_server"
CLIENT_FILE = "config_fed_client"


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


class Translate(Protocol):
    """What a config file says, in our words, and what to tell the user of it.

    `stem` is config_fed_server or config_fed_client, `file` how errors call it. What is ours already stays as it is.
    Raises JobError naming what has no counterpart.
    """

    def __call__(
        self, values: Mapping[str, Any], *, stem: str, file: str
    ) -> tuple[Mapping[str, Any], Sequence[str]]: ...


def as_written(values: Mapping[str, Any], **_: str) -> tuple[Mapping[str, Any], Sequence[str]]:
    return values, ()


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """One app folder of a job. `notes` is what there is to tell of its configs, once they were read."""

    name: str
    folder: Path
    translate: Translate = field(default=as_written, repr=False, compare=False)
    notes: list[str] = field(default_factory=list, init=False, repr=False, compare=False)
    _files: dict[str, Path | None] = field(default_factory=dict, init=False, repr=False, compare=False)
    _read_so_far: dict[str, dict[str, Any]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def custom(self) -> Path:
        return self.folder / "custom"

    @property
    def config(self) -> Path:
        return self.folder / "config"

    @property
    def has_server(self) -> bool:
        return self.file(SERVER_FILE) is not None

    @property
    def has_client(self) -> bool:
        return self.file(CLIENT_FILE) is not None

    def file(self, stem: str) -> Path | None:
        """The config file called `stem`, which may lie further down in config/."""
        if stem not in self._files:  # looked for once, however many sites ask
            self._files[stem] = hocon.find(self.config, stem, also_below=True)
        return self._files[stem]

    @files.reading()
    def server(self, variables: Mapping[str, Any]) -> ServerConfig:
        """Raises JobError naming file and key."""
        from fedsag_cli.job import reader  # and all that components are: what lists templates does without

        conf = self._read(SERVER_FILE, variables)
        workflows, components = reader.workflows_and_components(conf, self.custom)
        return ServerConfig(
            workflows=workflows,
            components=components,
            task_data_filters=reader.filters(conf, "task_data_filters", "out", self.custom),
            task_result_filters=reader.filters(conf, "task_result_filters", "in", self.custom),
        )

    @files.reading()
    def client(self, variables: Mapping[str, Any]) -> ClientApp:
        """`variables` are the system's: SITE_NAME, WORKSPACE, JOB_ID, JOB_CUSTOM_DIR, … Raises JobError."""
        from fedsag_cli.job import reader

        command, script, config = reader.client(self._read(CLIENT_FILE, variables), self.custom)
        return ClientApp(command=command, script=script, config=config)

    @files.reading()
    def written(self, stem: str, variables: Mapping[str, Any]) -> Written | None:
        """A config file in our words, its placeholders as they stand; None where there is none. Raises JobError."""
        from fedsag_cli.job.config import placeholders

        if self.file(stem) is None:
            return None
        tree, name = self._tree(stem)
        values, _ = self.translate(tree, stem=stem, file=name)
        return Written(values=values, variables=placeholders.resolved(tree, variables, name=name), name=name)

    def _read(self, stem: str, variables: Mapping[str, Any]) -> Section:
        from fedsag_cli.job import reader
        from fedsag_cli.job.config import placeholders

        tree, name = self._tree(stem)
        values, notes = self.translate(placeholders.resolved(tree, variables, name=name), stem=stem, file=name)
        self.notes.extend(note for note in notes if note not in self.notes)
        conf = Section(values, name)
        reader.check_version(conf)
        return conf

    def _tree(self, stem: str) -> tuple[dict[str, Any], str]:
        """What the file says, and how errors call it."""
        path = self.file(stem)
        if path is None:
            raise JobError(f"app {self.name!r} has no config/{stem}.conf: {self.folder}")
        name = f"{self.name}/config/{path.name}"
        if stem not in self._read_so_far:  # once, however many sites it is resolved for: HOCON takes its time
            self._read_so_far[stem] = hocon.load(path, name=name)
        return self._read_so_far[stem], name


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A config file as it stands: in our words, what its variables are, and how errors call it."""

    values: Mapping[str, Any]
    variables: Mapping[str, Any]
    name: str

    def meaning(self, value: Any) -> Any:
        """What a text that is nothing but `{name}` stands for; anything else as it is."""
        from fedsag_cli.job.config import placeholders

        name = placeholders.stands_for(value)
        return value if name is None else self.variables.get(name, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job folder that has been read and checked."""

    folder: Path
    meta: Meta
    apps: Mapping[str, App]

    @classmethod
    @files.reading()
    def load(cls, folder: Path, translate: Translate = as_written) -> Job:
        """`translate` is told what each config file says. A bare app folder is a job of one app.

        Raises JobError naming file, key, value, and the nearest known name.
        """
        folder = Path(folder).absolute()
        if not folder.is_dir():
            raise JobError(f"there is no job folder {folder}", hint="fedsag job create makes one")
        bounds = Bounds.of(folder, "the job")
        for meta_file in folder.glob("meta.*"):
            files.check(meta_file, bounds)
        file = hocon.find(folder, "meta")
        if file is None and (folder / "config").is_dir():
            app = App(name="app", folder=folder, translate=translate)
            meta = Meta(name=folder.name, deploy_map={app.name: (ALL,)})
            _check_files(app, bounds)
            return cls(folder=folder, meta=meta, apps={app.name: app})._checked(app.name, [app.name])
        if file is None:
            raise JobError(f"{folder} is no job: it has no meta.conf", hint="fedsag job create makes one")
        meta = Meta.read(Section(hocon.load(file, name=file.name), file.name), name=folder.name)
        there = [path.name for path in folder.iterdir() if (path / "config").is_dir()]
        apps = {name: App(name=name, folder=folder / name, translate=translate) for name in meta.deploy_map}
        for app in apps.values():
            if app.name in there:
                _check_files(app, bounds)
        return cls(folder=folder, meta=meta, apps=apps)._checked(file.name, there)

    def named_sites(self) -> list[str]:
        """The clients deploy_map names, in its order; empty where it says @ALL."""
        return [site for sites in self.meta.deploy_map.values() for site in sites if site not in (SERVER, ALL)]

    def app_for(self, site: str) -> App:
        """The app deployed to `site` (SERVER for the server's). Raises JobError naming the site."""
        for name, sites in self.meta.deploy_map.items():
            if site in sites or ALL in sites:
                return self.apps[name]
        raise JobError(
            f"meta.conf: deploy_map has no app for site {site!r}", hint=nearest(site, [SERVER, *self.named_sites()])
        )

    def _checked(self, file: str, there: Sequence[str]) -> Job:
        for app in self.apps.values():
            self._check(app, file, there)
        return self

    def _check(self, app: App, file: str, there: Sequence[str]) -> None:
        where = f"{file}: deploy_map.{app.name}"
        sites = self.meta.deploy_map[app.name]
        if app.name not in there:
            raise JobError(f"{where}: there is no app {app.name!r} with a config folder", hint=nearest(app.name, there))
        if (SERVER in sites or ALL in sites) and not app.has_server:
            raise JobError(f"{where}: {app.name}/config has no {SERVER_FILE}.conf, which the server needs")
        if any(site != SERVER for site in sites) and not app.has_client:
            raise JobError(f"{where}: {app.name}/config has no {CLIENT_FILE}.conf, which clients need")


def _check_files(app: App, bounds: Bounds) -> None:
    """Raises JobError where the app holds what is no file of the job: a link that leads out of it, a pipe."""
    files.check(app.folder, bounds)
    for _ in files.below(app.folder, bounds):
        pass
