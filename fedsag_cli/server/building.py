"""Makes a process ready to build the server's components, and checks that they can be built."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from fedsag_cli import catalog
from fedsag_cli.errors import JobError
from fedsag_cli.interop import shim
from fedsag_cli.job.problems import Problem
from fedsag_cli.params.seeds import derived, set_seed
from fedsag_cli.persistors import WritesFiles
from fedsag_cli.plan import ComponentSpec, Plan, read_plan
from fedsag_cli.processes.child import preload
from fedsag_cli.workspace import SERVER, Workspace


def prepare(plan: Plan, workspace: Workspace) -> None:
    """Import what the components need, and find the modules of the job."""
    preload(plan.preload)  # a forked server has them; in a spawned one they must be imported before the seed is set
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)  # the cores are for the clients
    sys.path.insert(0, str(workspace.app(SERVER) / "custom"))
    shim.install()
    set_seed(derived(plan.seed, SERVER))


def check(root: str, out: str, *, link: int) -> int:
    """Build the components of the plan of the workspace at `root`, and load the first model.

    What went wrong is written to the file `out`: a list of Problem as JSON. The key of a problem is the id of a
    component, or of a chain of filters; its file and line are those of the user's code. `link` is not used.
    """
    os.close(link)
    workspace = Workspace(Path(root))
    plan = read_plan(workspace.plan)
    prepare(plan, workspace)
    found = list(_problems(plan, workspace.app(SERVER)))
    Path(out).write_bytes(msgspec.json.encode(found))
    return 0


def _problems(plan: Plan, app: Path) -> Iterator[Problem]:
    for key, specs in (
        ("task_data_filters", plan.server.task_data_filters),
        ("task_result_filters", plan.server.task_result_filters),
    ):
        yield from _failed(key, app, lambda specs=specs: catalog.chain(specs))  # type: ignore[misc]
    parts: dict[str, Any] = {}
    failed: set[str] = set()
    for spec in (*plan.server.components, *plan.server.workflows):
        if failed.isdisjoint(value for value in spec.args.values() if isinstance(value, str)):
            wrong = list(_failed(spec.id, app, lambda spec=spec: parts.update(_built(spec, parts))))  # type: ignore[misc]
            failed |= {problem.key for problem in wrong}
            yield from wrong
    for name, part in parts.items():
        if isinstance(part, WritesFiles) and callable(load := getattr(part, "load", None)):
            yield from _failed(name, app, load)


def _built(spec: ComponentSpec, parts: Mapping[str, Any]) -> dict[str, Any]:
    return {spec.id: catalog.build(spec, parts)}


def _failed(name: str, app: Path, build: Callable[[], object]) -> Iterator[Problem]:
    try:
        build()
    except JobError as error:
        yield _problem(name, error.message, error.hint, error.__cause__ or error, app)
    except Exception as error:
        # the user's code may raise anything
        yield _problem(name, f"component {name!r}: {type(error).__name__}: {error}", "", error, app)


def _problem(name: str, message: str, hint: str, error: BaseException, app: Path) -> Problem:
    """With the file and the line of the deepest frame in the app."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(str(app))]
    file, line = (frames[-1].filename, frames[-1].lineno) if frames else ("", None)
    if isinstance(error, SyntaxError) and error.filename:
        file, line = error.filename, error.lineno
    return Problem(file=file, line=line, key=name, message=message, hint=hint)
