"""Reads a job folder into typed values: what to run, on which sites, with which settings.

JOB/meta.conf                       name, min_clients, deploy_map
JOB/<app>/config/config_fed_server.conf
JOB/<app>/config/config_fed_client.conf
JOB/<app>/custom/                   the user's modules and scripts
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from fedsag_cli.errors import Gathering, JobError, nearest
from fedsag_cli.job import nearby
from fedsag_cli.job.config import CLIENT_FILE, SERVER_FILE, files, hocon
from fedsag_cli.job.config.files import Bounds
from fedsag_cli.job.config.tree import KeyPath
from fedsag_cli.job.meta import ALL, Meta
from fedsag_cli.job.section import Section
from fedsag_cli.leftovers import is_leftover
from fedsag_cli.workspace import SERVER

if TYPE_CHECKING:
    from fedsag_cli.plan import ClientConfig, ComponentSpec, FilterSpec

__all__ = ["App", "ClientApp", "ConfigFile", "Executor", "Job", "Meta", "ServerConfig", "Translate", "as_written"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFile:
    """The values of a config file; its stem, which is SERVER_FILE or CLIENT_FILE; its name in errors.

    `search`: the folders with the app's modules. `notes`: for the user, about the translation.
    """

    stem: str
    name: str
    values: Mapping[str, Any]
    search: Sequence[Path] = ()
    notes: Sequence[str] = ()


Translate: TypeAlias = Callable[[ConfigFile, Iterable[ConfigFile]], ConfigFile]
"""Makes a config file fedsag's. The second argument is, for the server's file, the files of all apps for clients, with
the values of their variables; for a client's file it is empty.

Values that fedsag knows are not changed. Raises JobError naming a part that has no counterpart.
"""


def as_written(file: ConfigFile, _clients: Iterable[ConfigFile]) -> ConfigFile:
    """Translate nothing: for files that fedsag wrote."""
    return file


_ONLY_APP = "app"  # of a folder that is an app itself


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """config_fed_server with its placeholders resolved: the workflows in order, and the components.

    `notes`: for the user, about the translation. `file`: its name in errors. `places`: the key path of each id.
    """

    workflows: Sequence[ComponentSpec]
    components: Sequence[ComponentSpec]
    task_data_filters: Sequence[FilterSpec] = ()
    task_result_filters: Sequence[FilterSpec] = ()
    notes: Sequence[str] = ()
    file: str = ""
    places: Mapping[str, KeyPath] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Executor:
    """One executor of config_fed_client: what to start, and what the Client API must know.

    `command` is the argument vector, the script's path as written in the job (relative to the app's folder).
    `script` is that path if the command is `python [-u] SCRIPT ARGS`, else None; it may be absolute. `in_process`: the
    job's execution_mode; such a script works in the site's folder. `at`: the key path of its arguments.
    """

    command: Sequence[str]
    script: str | None
    config: ClientConfig
    in_process: bool = False
    at: KeyPath = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientApp:
    """config_fed_client, its placeholders resolved for one site. Each executor has a process and tasks of its own.

    `notes` and `file` as in ServerConfig.
    """

    executors: Sequence[Executor]
    notes: Sequence[str] = ()
    file: str = ""


class _ConfigFiles:
    """The config files of one app. Each is found and read once for all sites, because parsing is slow."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name, self._folder = name, folder
        self._found: dict[str, Path | None] = {}
        self._read: dict[str, dict[str, Any]] = {}

    def find(self, stem: str) -> Path | None:
        """The config file named `stem`, in config/ or in a subfolder."""
        if stem not in self._found:
            self._found[stem] = hocon.find(self._folder / "config", stem, also_below=True)
        return self._found[stem]

    def read(self, stem: str) -> ConfigFile:
        """The file as it is written. Raises JobError."""
        path = self.find(stem)
        if path is None:
            raise JobError(f"app {self._name!r} has no config/{stem}.conf: {self._folder}")
        name = f"{self._name}/config/{path.name}"
        if stem not in self._read:
            self._read[stem] = hocon.load(path, name=name)
        return ConfigFile(stem=stem, name=name, values=self._read[stem], search=[self._folder / "custom"])

    def replace(self, stem: str, values: dict[str, Any]) -> None:
        """From now on, `values` are what is in the file."""
        self._read[stem] = values

    def resolved(self, stem: str, variables: Mapping[str, Any]) -> ConfigFile:
        """The file with its placeholders replaced. Raises JobError."""
        from fedsag_cli.job.config import placeholders

        file = self.read(stem)
        return replace(file, values=placeholders.resolved(file.values, variables, name=file.name))


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """One app folder of a job."""

    name: str
    folder: Path
    translate: Translate = field(repr=False, compare=False)
    configs: _ConfigFiles = field(repr=False, compare=False)
    clients: Sequence[_ConfigFiles] = field(repr=False, compare=False)  # of all apps of the job that clients have

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
        """The config file named `stem`."""
        return self.configs.find(stem)

    def variables(self, stem: str) -> list[str]:
        """The names of the variables that the config file `stem` has. Raises JobError."""
        return [name for name in self.configs.read(stem).values if not name.startswith("@")]

    def expected(self, stem: str) -> str:
        """The name that a missing config file would have beside the app's other one."""
        there = self.file(SERVER_FILE) or self.file(CLIENT_FILE)
        return stem + (there.suffix if there else ".conf")

    @files.reading()
    def server(self, variables: Mapping[str, Any]) -> ServerConfig:
        """Raises JobError naming file and key."""
        from fedsag_cli.job import reader  # not at the top: listing templates does not need it, and it imports slowly

        with Gathering() as found:
            conf, notes = self._resolved(SERVER_FILE, variables)
            found.attempt(reader.check_version, conf)
            parts = found.attempt(reader.workflows_and_components, conf, self.custom)
            data_filters = found.attempt(reader.filters, conf, "task_data_filters", "out", self.custom)
            result_filters = found.attempt(reader.filters, conf, "task_result_filters", "in", self.custom)
        workflows, components, places = parts or ([], [], {})
        return ServerConfig(
            workflows=workflows,
            components=components,
            task_data_filters=data_filters or (),
            task_result_filters=result_filters or (),
            notes=notes,
            file=conf.file,
            places=places,
        )

    @files.reading()
    def client(self, variables: Mapping[str, Any]) -> ClientApp:
        """`variables`: the system's variables SITE_NAME, WORKSPACE, JOB_ID, JOB_CUSTOM_DIR, … Raises JobError."""
        from fedsag_cli.job import reader

        with Gathering() as found:
            conf, notes = self._resolved(CLIENT_FILE, variables)
            found.attempt(reader.check_version, conf)
            read = found.attempt(reader.client, conf, self.custom)
        executors = [
            Executor(command=start.words, script=start.script, in_process=start.in_process, config=config, at=at)
            for start, config, at in read or ()
        ]
        return ClientApp(executors=executors, notes=notes, file=conf.file)

    @files.reading()
    def written(self, stem: str, variables: Mapping[str, Any]) -> Written | None:
        """A translated config file with unresolved placeholders; None if there is no such file. Raises JobError."""
        from fedsag_cli.job.config import placeholders

        if self.file(stem) is None:
            return None
        file = self.configs.read(stem)
        translated = self.translate(file, self._of_clients(stem, variables))
        known = placeholders.resolved(file.values, variables, name=file.name)
        return Written(values=translated.values, variables=known, name=file.name)

    def _resolved(self, stem: str, variables: Mapping[str, Any]) -> tuple[Section, Sequence[str]]:
        """A translated config file with resolved placeholders, and notes for the user."""
        file = self.translate(self.configs.resolved(stem, variables), self._of_clients(stem, variables))
        return Section(file.values, file.name), file.notes

    def _of_clients(self, stem: str, variables: Mapping[str, Any]) -> Iterator[ConfigFile]:
        """The config files of all apps for clients, for the translation of the server's. Each is read when needed."""
        if stem == SERVER_FILE:
            yield from (configs.resolved(CLIENT_FILE, variables) for configs in self.clients)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A translated config file with unresolved placeholders, the values of its variables, and its name for errors."""

    values: Mapping[str, Any]
    variables: Mapping[str, Any]
    name: str

    def resolve(self, value: Any) -> Any:
        """The variable's value if `value` is only `{name}`; otherwise `value`."""
        from fedsag_cli.job.config import placeholders

        name = placeholders.stands_for(value)
        return value if name is None else self.variables.get(name, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job folder that has been read and checked."""

    folder: Path
    meta: Meta
    apps: Mapping[str, App]
    meta_file: str = "meta.conf"  # its name in errors
    meta_values: Mapping[str, Any] = field(default_factory=dict)  # all that is in it

    @classmethod
    @files.reading()
    def load(cls, folder: Path, translate: Translate = as_written) -> Job:
        """Read a job. `translate` is applied to its config files. A folder with config/ in it is a job of one app.

        Raises JobError naming file, key, value, and the nearest known name.
        """
        folder = Path(folder).absolute()
        if not folder.is_dir():
            raise JobError(f"there is no job folder {folder}", hint=nearby.hint(folder))
        bounds = Bounds.of(folder, "the job")
        for meta_file in (path for path in folder.glob("meta.*") if not is_leftover(path.name)):
            files.check(meta_file, bounds)
        file = hocon.find(folder, "meta")
        if file is None and (folder / "config").is_dir():
            meta = Meta(name=folder.name, deploy_map={_ONLY_APP: (ALL,)})
            apps = _apps(meta, {_ONLY_APP: folder}, translate)
            _check_files(apps[_ONLY_APP], bounds)
            return cls(folder=folder, meta=meta, apps=apps)._checked(_ONLY_APP, [_ONLY_APP])
        if file is None:
            raise JobError(f"{folder} is not a job: there is no meta.conf", hint=nearby.hint(folder))
        folders = [path.name for path in folder.iterdir() if (path / "config").is_dir()]
        if not folders and nearby.is_template(folder):
            raise JobError(f"{folder} is not a job", hint=nearby.hint(folder))
        values = hocon.load(file, name=file.name)
        meta = Meta.read(Section(values, file.name), name=folder.name)
        apps = _apps(meta, {name: folder / name for name in meta.deploy_map}, translate)
        for app in apps.values():
            if app.name in folders:
                _check_files(app, bounds)
        job = cls(folder=folder, meta=meta, apps=apps, meta_file=file.name, meta_values=values)
        return job._checked(file.name, folders)

    @classmethod
    def apps_in(cls, folder: Path, translate: Translate = as_written) -> Mapping[str, App]:
        """The apps in a folder whose meta file cannot be used: subfolders with config files, or the folder itself."""
        found = {path.name: path for path in sorted(folder.iterdir()) if (path / "config").is_dir()}
        if (folder / "config").is_dir():
            found = {_ONLY_APP: folder}
        meta = Meta(name=folder.name, deploy_map=dict.fromkeys(found, (ALL,)))
        return _apps(meta, found, translate)

    def written(self) -> dict[str, Mapping[str, Any]]:
        """What is in the files that a run reads, by their path in the job. Raises JobError."""
        files = {self.meta_file: self.meta_values} if self.meta_values else {}
        for app in self.apps.values():
            found = (app.configs.read(stem) for stem in (CLIENT_FILE, SERVER_FILE) if app.file(stem))
            files |= {file.name: file.values for file in found}
        return files

    def named_sites(self) -> list[str]:
        """The clients that deploy_map names, in its order; empty for @ALL."""
        return [site for sites in self.meta.deploy_map.values() for site in sites if site not in (SERVER, ALL)]

    def app_for(self, site: str) -> App:
        """The app deployed to `site` (SERVER for the server's). Raises JobError naming the site."""
        for name, sites in self.meta.deploy_map.items():
            if site in sites or ALL in sites:
                return self.apps[name]
        raise JobError(
            f"{self.meta_file}: deploy_map has no app for site {site!r}",
            hint=nearest(site, [SERVER, *self.named_sites()]),
            file=self.meta_file,
            at=("deploy_map",),
        )

    def _checked(self, file: str, folders: Sequence[str]) -> Job:
        with Gathering() as found:
            for app in self.apps.values():
                found.attempt(self._check, app, file, folders)
        return self

    def _check(self, app: App, file: str, folders: Sequence[str]) -> None:
        def wrong(problem: str, hint: str = "") -> JobError:
            at = ("deploy_map", app.name)
            return JobError(f"{file}: deploy_map.{app.name}: {problem}", hint=hint, file=file, at=at)

        sites = self.meta.deploy_map[app.name]
        if app.name not in folders:
            near = nearest(app.name, folders) or nearby.hint(self.folder)
            raise wrong(f"there is no app {app.name!r} with a config folder", near)
        with Gathering() as found:
            if (SERVER in sites or ALL in sites) and not app.has_server:
                found.add(wrong(f"{app.name}/config has no {app.expected(SERVER_FILE)}, which the server needs"))
            if any(site != SERVER for site in sites) and not app.has_client:
                found.add(wrong(f"{app.name}/config has no {app.expected(CLIENT_FILE)}, which clients need"))


def _apps(meta: Meta, folders: Mapping[str, Path], translate: Translate) -> dict[str, App]:
    configs = {name: _ConfigFiles(name, folder) for name, folder in folders.items()}
    clients = [configs[name] for name, sites in meta.deploy_map.items() if any(site != SERVER for site in sites)]
    return {
        name: App(name=name, folder=folder, translate=translate, configs=configs[name], clients=clients)
        for name, folder in folders.items()
    }


def _check_files(app: App, bounds: Bounds) -> None:
    """Raises JobError for a link to a target outside the job, and for a pipe or a device in the app."""
    files.check(app.folder, bounds)
    for _ in files.below(app.folder, bounds):
        pass
