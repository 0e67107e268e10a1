"""The parts of an app of a job, and how a job folder is written from them."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from fedsag_cli.errors import UsageError, system_errors
from fedsag_cli.recipe.parts import Uses, class_of, written
from fedsag_cli.recipe.sources import Sources


@dataclass(slots=True)
class App:
    """What the server, or a client, gets. Filters are lists of (tasks, filter)."""

    workflows: dict[str, Any] = field(default_factory=dict)
    executors: list[tuple[Sequence[str], Any]] = field(default_factory=list)
    components: dict[str, Any] = field(default_factory=dict)
    data_filters: list[tuple[Sequence[str], Any]] = field(default_factory=list)
    result_filters: list[tuple[Sequence[str], Any]] = field(default_factory=list)
    resources: list[str] = field(default_factory=list)
    files: list[tuple[str, str, str]] = field(default_factory=list)  # source, folder, "config" or "custom"
    params: dict[str, Any] = field(default_factory=dict)

    def free_id(self, wanted: str) -> str:
        """`wanted`, or with a number if there is such a part already."""
        taken, number = {*self.workflows, *self.components}, 1
        found = wanted
        while found in taken:
            found, number = f"{wanted}{number}", number + 1
        return found

    def add_component(self, part: Any, wanted: str) -> str:
        """The id of the component; one that is there already keeps its id."""
        known = next((name for name, each in self.components.items() if each is part), None)
        if known is None:
            self.components[known := self.free_id(wanted)] = part
        return known


Halves: TypeAlias = tuple[App | None, App | None]
"""What the server gets, and what clients get."""


@system_errors()
def write(
    folder: Path, meta: Mapping[str, Any], apps: Mapping[str, Halves], sites: Mapping[str, Sequence[str]]
) -> None:
    """Write the job folder whole, or not at all. A folder of the same job is replaced.

    `apps`: by name; `sites`: the sites of each. Raises UsageError, also if `folder` is no job of that name, and
    RunError for what the system refuses.
    """
    if folder.exists() and not _is_job(folder, meta["name"]):
        raise UsageError(f"{folder} is there already, and is no job of that name", hint="choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as made:
        root = Path(made) / folder.name
        for name, halves in apps.items():
            _write_app(root / name, halves)
        _write_json(root / "meta.json", {**meta, "deploy_map": {name: list(each) for name, each in sites.items()}})
        if folder.exists():
            folder.replace(Path(made) / "before")
        root.replace(folder)


def _is_job(folder: Path, name: str) -> bool:
    try:
        known = json.loads((folder / "meta.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(known, dict) and known.get("name") == name


def _write_app(folder: Path, halves: Halves) -> None:
    sources = Sources(folder / "custom")
    server, client = halves
    if server is not None:
        _write_json(folder / "config" / "config_fed_server.json", _server(server, sources.add_module))
    if client is not None:
        _write_json(folder / "config" / "config_fed_client.json", _client(client, sources.add_module))
    for app in filter(None, halves):
        for resource in app.resources:
            sources.add(resource)
        for file in app.files:
            _copy(folder, *file)


def _copy(folder: Path, source: str, inside: str, kind: str) -> None:
    place = folder / kind / inside
    place.mkdir(parents=True, exist_ok=True)
    if Path(source).is_dir():
        shutil.copytree(source, place, dirs_exist_ok=True)
    else:
        shutil.copy(source, place)


def _server(app: App, uses: Uses) -> dict[str, Any]:
    flows = [{"id": name, **class_of(part, uses)} for name, part in app.workflows.items()]
    return {"format_version": 2, "workflows": flows, **_both(app, uses)}


def _client(app: App, uses: Uses) -> dict[str, Any]:
    entries = [{"tasks": list(tasks), "executor": class_of(part, uses)} for tasks, part in app.executors]
    return {"format_version": 2, "executors": entries, **_both(app, uses)}


def _both(app: App, uses: Uses) -> dict[str, Any]:
    return {
        "components": [{"id": name, **class_of(part, uses)} for name, part in app.components.items()],
        "task_data_filters": [
            {"tasks": list(tasks), "filters": [class_of(each, uses)]} for tasks, each in app.data_filters
        ],
        "task_result_filters": [
            {"tasks": list(tasks), "filters": [class_of(each, uses)]} for tasks, each in app.result_filters
        ],
        **written(app.params, uses, "params"),
    }


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=4, allow_nan=False) + "\n")
