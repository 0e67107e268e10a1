"""The names that the Tab key offers for an option or argument: templates, keys, jobs, workspaces, sites, runs.

A parameter names its function, as in `typer.Option("-w", autocompletion=completion.templates)`. In `ctx.params` the
function finds the words that were typed before, by parameter. Of what it returns, the words that fit are offered.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import typer

if TYPE_CHECKING:
    from fedsag_cli.job.templates.find import Template

Offer: TypeAlias = "tuple[str, str]"
"""A word, and its meaning, which zsh and fish show beside it."""

TAKES_FOLDERS = ("template", "run", "runs", "other")
"""Parameters that are a name or a folder."""

_MOST = 500


def templates(ctx: typer.Context) -> list[Offer]:
    """The names of templates."""
    from fedsag_cli.job.templates import find

    listed = find.all_templates(_folder(ctx, "job_templates_dir"))
    return [(template.name, template.description) for template in listed.templates]


def keys(ctx: typer.Context, incomplete: str) -> list[Offer]:
    """The files of the template; after a file, its keys; after a key and `=`, a value.

    With nothing typed, only the variables that the template declares: a file has dozens of other keys.
    """
    from fedsag_cli.job.templates import draft, find

    name = _typed(ctx, "template") or find.DEFAULT
    template = find.find_template(name, _folder(ctx, "job_templates_dir"))
    file = next(iter(ctx.params["config_file"]), "")
    if not file:
        return [(name, "") for name in draft.file_names(template)]
    if not incomplete and (declared := draft.variables_of(template, file)):
        return [(f"{each.name}=", _meaning(each.kind, each.default, each.meaning)) for each in declared]
    return list(_keys(template, file, incomplete))


def keys_of_job(ctx: typer.Context, incomplete: str) -> list[Offer]:
    """The keys of the job that the command line names; with nothing typed, only those that its template declares."""
    from fedsag_cli.job.templates import variables

    rows = variables.of_job(Path(_typed(ctx, "job") or "current_job"))
    rows = [row for row in rows if row.is_variable] or rows if not incomplete else rows
    several = Counter(row.key for row in rows)
    return [
        (name, _meaning(row.kind, row.value, row.meaning))
        for row in rows
        if (name := f"{row.file}:{row.key}=" if several[row.key] > 1 else f"{row.key}=").startswith(incomplete)
    ]


def jobs(incomplete: str) -> list[Offer]:
    """The folders with a job, at most three levels below the folder that was typed."""
    from fedsag_cli.job import nearby

    base, typed = _base(incomplete)
    found = itertools.islice(nearby.jobs_below(base), _MOST)
    return [(f"{typed}{path.relative_to(base)}", "") for path in found]


def workspaces(incomplete: str) -> list[Offer]:
    """The folders with the files of a run."""
    from fedsag_cli.workspace import Workspace

    base, typed = _base(incomplete)
    with contextlib.suppress(OSError):
        return [(f"{typed}{path.name}", "") for path in sorted(base.iterdir()) if Workspace(path).has_run]
    return []


def sites(ctx: typer.Context) -> list[Offer]:
    """The clients that the command line names, else those of the run in its workspace, else those of its job."""
    from fedsag_cli.simulator.options import Options, site_names

    number, names = _typed(ctx, "num_clients"), _typed(ctx, "clients")
    options = Options(
        num_clients=int(number) if number.isdecimal() else None,
        clients=[name.strip() for name in names.split(",")] if names else (),
        max_clients=_MOST,
    )
    workspace = _folder_of_run(_typed(ctx, "run")) or _folder(ctx, "workspace")
    found = site_names(options) or (sites_in(workspace) if workspace else []) or _sites_of_job(_folder(ctx, "job"))
    return [(name, "") for name in found]


def sites_in(workspace: Path) -> list[str]:
    """The sites of the run in a workspace, and `server`: those that have a log."""
    from fedsag_cli.workspace import by_number

    return sorted((path.parent.name for path in workspace.glob("*/log.txt")), key=by_number)


def runs(incomplete: str) -> list[Offer]:
    """What names a run: its number, `last`, its workspace."""
    from fedsag_cli.history import known_runs

    numbers = [(str(number), job) for number, job in known_runs()[:_MOST]]
    return [*numbers, *([("last", "the newest run")] if numbers else []), *workspaces(incomplete)]


def verifiable(incomplete: str) -> list[Offer]:
    """What names a run, and packs."""
    base, typed = _base(incomplete)
    found: list[Offer] = []
    with contextlib.suppress(OSError):
        found = [(f"{typed}{path.name}", "a pack") for path in sorted(base.glob("*.zip"))]
    return [*runs(incomplete), *found[:_MOST]]


def jobs_of_runs() -> list[Offer]:
    """The names of the jobs that have runs."""
    from fedsag_cli.history import known_runs

    return [(job, "") for job in dict.fromkeys(job for _, job in known_runs()) if job]


def metrics() -> list[Offer]:
    """The metrics of the runs."""
    from fedsag_cli.history import known_metrics

    return [(name, "") for name in known_metrics()]


def launchers() -> list[Offer]:
    return [("fork", "the default on Linux, and faster"), ("spawn", "every process begins anew")]


def engines() -> list[Offer]:
    return [("local", "on this machine: the default"), ("ray", "on the nodes of a Ray cluster")]


def baselines() -> list[Offer]:
    return [("centralised", "trained on the data of all sites together"), ("local", "trained at each site alone")]


def _keys(template: Template, file: str, incomplete: str) -> Iterator[Offer]:
    from fedsag_cli.job.templates import variables

    key, equals, _ = incomplete.partition("=")
    for row in variables.of_template(template, file):
        if not equals:
            yield f"{row.key}=", _meaning(row.kind, row.value, row.meaning)
        elif row.key == key:
            values = ("true", "false") if row.kind == "bool" else (_shown(row.value),)
            yield from ((f"{key}={value}", row.meaning) for value in values)


def _sites_of_job(job: Path | None) -> list[str]:
    from fedsag_cli.job import Job

    return Job.load(job or Path("current_job")).named_sites() or ["site-1", "site-2"]


def _folder_of_run(word: str) -> Path | None:
    from fedsag_cli.history import workspace_of

    return workspace_of(word) if word else None


def _typed(ctx: typer.Context, name: str) -> str:
    values: Any = ctx.params.get(name)
    return str(values[-1]) if values else ""


def _folder(ctx: typer.Context, name: str) -> Path | None:
    text = _typed(ctx, name)
    return Path(text).expanduser() if text else None


def _base(incomplete: str) -> tuple[Path, str]:
    """The folder that the incomplete path is in, and what was typed of it."""
    typed = incomplete[: incomplete.rfind("/") + 1]
    return Path(typed or "."), typed


def _meaning(kind: str, default: Any, meaning: str) -> str:
    return f"{meaning} ({kind}, {_shown(default)})" if meaning else f"{kind}, {_shown(default)}"


def _shown(value: Any) -> str:
    return value if value and isinstance(value, str) else json.dumps(value, ensure_ascii=False)
