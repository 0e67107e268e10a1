"""Makes the plan of a run from a job and the command line: the clients, their commands, their threads.

All checks that need no process are made here.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import resource
import secrets
import shlex
import shutil
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from fedsag_cli import catalog, machine
from fedsag_cli.errors import FedsagError, Gathering, JobError, UsageError, counted, nearest
from fedsag_cli.interop import shim
from fedsag_cli.job import App, Executor, Job, ServerConfig
from fedsag_cli.job.config import CLIENT_FILE, SERVER_FILE, placeholders
from fedsag_cli.job.templates.changes import settings
from fedsag_cli.params.metrics import looks_lower_is_better
from fedsag_cli.plan import FORMAT, Plan, ServerPlan, SitePlan, matches
from fedsag_cli.processes.ray.messages import Node
from fedsag_cli.simulator import baselines, environment, outside
from fedsag_cli.simulator.options import (
    FORK,
    SPAWN,
    Options,
    check_debugged,
    check_followed,
    gpu_groups,
    site_names,
    slots_of,
)
from fedsag_cli.simulator.preloading import imports_of_components, imports_of_scripts, preload, variables_set
from fedsag_cli.workspace import JOB_ID, SERVER, WORKER, Workspace, files_in

_SELECTOR = "IntimeModelSelector"
_NAMED_BY_WORKFLOWS = ("updaters", "samplers")  # what has no effect unless a workflow names it
_SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_OF_SHELLS = {"cd", "source", ".", "export", "ulimit", "set", "if", "for", "exec", "conda"}
_SHELL_SIGNS = {"&&", "||", ";", "|", ">", ">>", "2>&1", "&", "<"}
_PROGRAMS = "fedsag_cli.client."  # of fedsag, started as scripts are
_PLACEHOLDER = re.compile(r"(?<![${])\{([A-Za-z_]\w*)\}")
_MOST_FAILED = 20  # sites of one app: the next ones would fail alike
_OTHER_DESCRIPTORS = 40  # of a process, beside those for clients
_LEAST, _LEAST_WITH_TORCH = 8_000_000, 16_000_000  # bytes that a forked client has of its own before its script


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A plan, the app of each process, and notes for the user.

    `words` are the commands, or the arguments of the scripts, by process, with secrets. The plan has no secrets.
    """

    plan: Plan
    apps: Mapping[str, App]
    words: Mapping[str, Sequence[str]]
    notices: list[str]


def make_plan(
    job: Job,
    workspace: Workspace,
    options: Options,
    prepare: Callable[[Sequence[str]], None] = lambda _: None,
    nodes: Callable[[], Sequence[Node]] = lambda: (),
) -> Planned:
    """`prepare` is called early with the modules that the processes import. `nodes`: the machines, if not only this.

    Raises UsageError, JobError.
    """
    if workspace.root.is_relative_to(job.folder.resolve()):
        raise UsageError(
            f"-w {workspace.root}: the workspace must not be inside the job {job.folder}", hint="choose another -w"
        )
    if options.seed is not None and not 0 <= options.seed < 1 << 63:
        raise UsageError(f"--seed {options.seed}: it must be a number from 0 to 2**63 - 1")
    seed = next((each for each in (options.seed, job.meta.seed, options.default_seed) if each is not None), None)
    if options.launcher not in (None, FORK, SPAWN):
        raise UsageError(f"--launcher {options.launcher!r}: it must be {FORK} or {SPAWN}")
    notices = environment.notes(os.environ)
    env = environment.for_processes(os.environ)
    names = _site_names(job, options, notices)
    check_followed(options, names)
    check_debugged(options, names)
    machines = nodes()
    num_nodes = max(1, len(machines))
    groups = gpu_groups(options.gpus, machines)
    if len(groups) > len(names):
        raise UsageError(
            f"-gpu {options.gpus}: {len(groups)} groups for {len(names)} clients", hint="give fewer groups"
        )
    threads = options.threads if options.threads is not None else max(1, machine.cores() // len(names))
    if threads < 1:
        raise UsageError(f"--torch-threads {threads}: it must be at least 1")
    apps = {name: job.app_for(name) for name in [SERVER, *names]}
    scripts = imports_of_scripts({app.custom for app in apps.values()})
    prepare(preload(scripts))
    with Gathering() as found:
        server = found.attempt(apps[SERVER].server, _variables(SERVER, workspace))
        notes = [*server.notes, *_doubts(server)] if server else []
        if server:
            found.attempt(baselines.check, job, server, apps[SERVER].custom, options.baselines)
        if server and options.baseline:
            server, notes = baselines.server_of(server, options.baseline, apps[SERVER].custom), []
        has_workers = bool(found.attempt(_has_workers, job, apps, options, names, workspace))
        if has_workers and options.debug:
            raise UsageError("--debug: workers do the tasks of all clients", hint="add --no-workers")
        if has_workers:
            apps = {SERVER: apps[SERVER], WORKER: apps[names[0]]}
        memory = _LEAST_WITH_TORCH if "torch" in preload(scripts) else _LEAST
        slots = slots_of(options, len(names), len(groups), threads, memory, notices)
        processes = slots * max(1, len(groups)) if has_workers else -(-len(names) // num_nodes)
        _check_limits(processes, memory, has_workers=has_workers)
        every_group = range(num_nodes * max(1, len(groups)))
        placed = zip(itertools.repeat(WORKER), every_group) if has_workers else zip(names, itertools.cycle(every_group))
        planned = found.attempt(
            _plans,
            placed,
            apps,
            lambda name, group: _plans_of(name, apps[name], workspace, env, threads, group, num_nodes, groups, notes),
        )
        if server:
            found.attempt(_check_workflows, server, apps[SERVER], planned or [], names)
        words = found.attempt(_words, planned or [])
    assert server is not None  # otherwise it was an error, as with the others
    assert planned is not None
    assert words is not None
    if options.debug:
        notices.append(f"{options.debug} has this terminal, and no time limit ends the wait for a client")
    sites = [
        msgspec.structs.replace(plan, config=msgspec.structs.replace(plan.config, serves_any_client=has_workers))
        for plan in planned
    ]
    places = {site.name: _places(site, apps[site.site], workspace) for site in sites if site.script}
    installed = {place for of_site in places.values() for place in of_site[1:]}
    scripts |= imports_of_scripts(installed) | imports_of_components(server, apps[SERVER].custom)
    if options.baseline:
        sites = list(map(baselines.site_of, sites))
    if modules := preload(scripts):
        sites = _fresh_where_needed(sites, places, notes)
    notices += dict.fromkeys(notes)
    commands = (word for site in sites for word in (site.script, *site.args, *site.command))
    code = outside.digests(commands, [workspace.root, *(app.folder for app in apps.values())])
    plan = Plan(
        format=FORMAT,
        job=f"{job.meta.name} ({options.baseline.kind})" if options.baseline else job.meta.name,
        baseline=options.baseline.kind if options.baseline else "",
        seed=secrets.randbits(31) if seed is None else seed,
        slots=slots,
        threads=threads,
        launcher=options.launcher or FORK,
        gpus=options.gpus,
        strict=options.strict,
        waits_for_all=options.waits_for_all if options.waits_for_all is not None else seed is not None,
        files=_digests({app.name: app for app in apps.values()}.values()) | code,
        preload=modules,
        debug=options.debug,
        server=ServerPlan(
            workflows=list(server.workflows),
            components=list(server.components),
            task_data_filters=list(server.task_data_filters),
            task_result_filters=list(server.task_result_filters),
        ),
        names=names,
        sites=sites,
        shown_settings=settings(job),
        overrides=list(options.sets),
        keep_checkpoints=1 if options.keep_checkpoints is None else options.keep_checkpoints,
    )
    return Planned(plan=plan, apps=apps, words=words, notices=notices)


def _words(sites: Iterable[SitePlan]) -> dict[str, list[str]]:
    """The commands, or the arguments of the scripts, with secrets. Raises JobError."""
    known = placeholders.Secrets(os.environ)
    return {site.name: [known.revealed(word) for word in site.command or site.args] for site in sites}


def _site_names(job: Job, options: Options, notices: list[str]) -> list[str]:
    """The names from the command line, else from the job, else site-1 and site-2."""
    names = site_names(options) or job.named_sites()
    if not names:
        names = ["site-1", "site-2"]
        notices.append("this run has 2 clients: neither -n nor -c is given, and the job names no sites")
    if idle := [site for site in job.named_sites() if site not in set(names)]:
        notices.append(f"deploy_map names {', '.join(idle)}, which this run has no client for")
    seen: set[str] = set()
    for name in names:
        if not _SITE_NAME.fullmatch(name) or name in (SERVER, WORKER):
            hint = "letters, digits, '.', '_' and '-', beginning with a letter or a digit; not 'server' or 'worker'"
            if options.clients:
                raise UsageError(f"-c: {name!r} cannot be a client's name", hint=hint)
            raise JobError(f"{job.meta_file}: deploy_map: {name!r} cannot be a client's name", hint=hint)
        if name in seen:
            raise UsageError(f"-c: {name!r} is given twice")
        seen.add(name)
    if options.max_clients is not None and len(names) > options.max_clients:
        raise UsageError(f"{len(names)} clients: -m allows at most {options.max_clients}")
    return names


def _has_workers(
    job: Job, app_of: Mapping[str, App], options: Options, names: Sequence[str], workspace: Workspace
) -> bool:
    """Whether workers do the tasks of all clients: as --workers, else the job says. Raises JobError, UsageError.

    They can if all clients have one app with one executor, whose command does not depend on the client.
    """
    apps: dict[str, str] = {}  # by name: the first client that has it
    for name in names:
        apps.setdefault(app_of[name].name, name)
    found = {app: _executors(job.apps[app], name, workspace) for app, name in apps.items()}
    says = next((app for app, own in found.items() if any(each.config.serves_any_client for each in own)), None)
    if not (says is not None if options.workers is None else options.workers):
        return False
    called = "--workers" if options.workers else f"app {says!r}: serves_any_client"

    def refused(why: str, hint: str) -> FedsagError:
        return (UsageError if options.workers else JobError)(f"{called}: {why}", hint=hint)

    if len(apps) > 1:
        each = ", ".join(f"{name} has {app}" for app, name in apps.items())
        raise refused(f"all clients must have one app, and {each}", "give one app to all in deploy_map")
    (app, executors), *_ = found.items()
    if len(executors) > 1:
        raise refused(f"the app {app!r} has {len(executors)} executors", "workers need one, for all tasks")
    if not executors[0].config.launch_once:
        raise refused("launch_once is false", "a worker's script does one task after another: set launch_once = true")
    of_worker = (_executors(job.apps[app], WORKER, workspace, site=site) for site in ("", names[0]))
    if next(of_worker) != next(of_worker):
        hint = "the script can call flare.get_site_name() after flare.receive()"
        raise refused(
            "the command, or a setting, of the executor depends on the client: {SITE_NAME}, {WORKSPACE}", hint
        )
    return True


def _executors(app: App, name: str, workspace: Workspace, *, site: str = "") -> Sequence[Executor]:
    """The executors of an app. `site`: the client, if `name` is only the place of its app."""
    variables = _variables(name, workspace)
    if site:
        variables |= {"SITE_NAME": site, "WORKSPACE": str(workspace.site(site))}
    return app.client(variables).executors


def _check_limits(processes: int, memory: int, *, has_workers: bool) -> None:
    """The nursery needs a pipe for each process; the server, which may raise its limit, a channel and a model.

    `memory`: bytes that each needs at least. Raises UsageError.
    """
    who, fewer = (counted(processes, "worker"), "-t") if has_workers else (counted(processes, "client"), "-n")
    instead = "" if has_workers else "--workers does their tasks in -t processes; or "
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 3 * processes + _OTHER_DESCRIPTORS
    for limit, count in ((soft, processes + _OTHER_DESCRIPTORS), (hard, needed)):
        if limit != resource.RLIM_INFINITY and count > limit:
            raise UsageError(
                f"{who} need {count} file descriptors in one process, the limit is {limit}",
                hint=f"{instead}`ulimit -n {needed}` raises it; or give fewer with {fewer}",
            )
    if (free := machine.free_memory()) and processes * memory > free:
        raise UsageError(
            f"{who}, a process each, need at least {processes * memory / 1e9:.1f} GB of memory, "
            f"{free / 1e9:.1f} GB are free",
            hint=f"{instead}give fewer with {fewer}",
        )


def _plans(
    placed: Iterable[tuple[str, int]], apps: Mapping[str, App], plans_of: Callable[[str, int], list[SitePlan]]
) -> list[SitePlan]:
    """The plans of all sites, or of workers, each with its group. Raises JobError.

    An error that an earlier site of the same app has too is not told again.
    """
    plans: list[SitePlan] = []
    told: set[tuple[str, str]] = set()  # by app, without the names of sites
    num_failed: Counter[str] = Counter()  # by app
    with Gathering() as found:
        for name, group in placed:
            app = apps[name].name
            if num_failed[app] == _MOST_FAILED:
                continue
            try:
                plans += plans_of(name, group)
            except JobError as error:
                num_failed[app] += 1
                for each in (error, *error.others):
                    each.others = ()
                    if (alike := (app, each.message.replace(name, ""))) not in told:
                        told.add(alike)
                        found.add(each)
    return plans


def _plans_of(
    name: str,
    app: App,
    workspace: Workspace,
    run_env: Mapping[str, str],
    threads: int,
    group: int,
    num_nodes: int,
    gpu_groups: Sequence[str],
    notes: list[str],
) -> list[SitePlan]:
    """A plan for each executor of a site. Raises JobError."""
    client = app.client(_variables(name, workspace))
    notes.extend(client.notes)
    custom = str(workspace.app(name) / "custom")
    env = {
        "PYTHONPATH": os.pathsep.join(filter(None, [shim.STARTUP, custom, run_env.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(threads),
    }
    if gpu_groups:
        env |= {"CUDA_VISIBLE_DEVICES": gpu_groups[group // num_nodes], "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    with Gathering() as found:
        started = [
            found.attempt(_start, executor, name, app, workspace, run_env, notes, client.file)
            for executor in client.executors
        ]
    return [
        SitePlan(
            name=name if number == 1 else f"{name}:{number}",
            group=group,
            node=group % num_nodes,
            script=start.script,
            args=list(start.args),
            command=list(start.command),
            env=env,
            config=executor.config,
            in_process=executor.in_process,
        )
        for number, (executor, start) in enumerate(zip(client.executors, started, strict=True), start=1)
        if start is not None
    ]


class _Start(NamedTuple):
    """The script and its arguments, or the command."""

    script: str = ""
    args: Sequence[str] = ()
    command: Sequence[str] = ()


def _unknown_variable(app: App, command: Sequence[str]) -> str:
    """The first {name} in a command that stands for nothing, so that the command keeps its placeholders; or nothing."""
    known = {*app.variables(CLIENT_FILE), *placeholders.SYSTEM}
    return next((name for name in _PLACEHOLDER.findall(" ".join(command)) if name not in known), "")


def _hint_for_variable(app: App, unknown: str) -> str:
    near = nearest(unknown, app.variables(CLIENT_FILE)) if unknown else ""
    return f"there is no variable {unknown!r} for its command; {near}" if unknown else ""


def _start(
    executor: Executor,
    name: str,
    app: App,
    workspace: Workspace,
    run_env: Mapping[str, str],
    notes: list[str],
    file: str,
) -> _Start:
    """How an executor is started. `file`: the config file that says so. Raises JobError if there is no such script."""
    command = list(executor.command)
    unknown = _unknown_variable(app, command)
    if unknown:
        notes.append(f"the command of {app.name} keeps its {{{unknown}}}: there is no variable {unknown!r}")
    if command[1:2] == ["-m"] and command[2].startswith(_PROGRAMS):
        return _Start(script=command[2], args=command[3:])
    if executor.script is None:
        if command[0] in ("python", "python3"):
            command[0] = sys.executable  # the interpreter of fedsag, not the one in PATH
        if not (app.folder / command[0]).is_file() and shutil.which(command[0], path=run_env.get("PATH")) is None:
            raise JobError(
                f"{app.name}: the command of {name}, {command[0]!r}, does not exist",
                hint=_hint_for_shell(command),
                file=file,
                at=(*executor.at, "command"),
            )
        return _Start(command=command)
    args = command[command.index(executor.script) + 1 :]
    folder = workspace.app(name)
    script = folder / executor.script  # an absolute path stays as it is
    in_job = app.folder / script.relative_to(folder) if script.is_relative_to(folder) else script
    if not in_job.is_file():
        scripts = [str(path.relative_to(app.folder)) for path in sorted(app.custom.rglob("*.py"))]
        raise JobError(
            f"{app.name}: the script {executor.script} of {name} does not exist",
            hint=_hint_for_variable(app, unknown)
            or (
                f"there is: {', '.join(scripts)}"
                if scripts
                else f"{app.custom} contains no Python files; see create's -sd"
            ),
            file=file,
            at=(*executor.at, "task_script_path" if executor.in_process else "command"),
        )
    _check_compiles(in_job)
    if signs := [word for word in args if word in _SHELL_SIGNS]:
        notes.append(f"no shell reads the command of {app.name}: {signs[0]!r} is an argument of its script")
    return _Start(script=str(script), args=args)


def _hint_for_shell(command: Sequence[str]) -> str:
    """How to write a command that only a shell understands; empty if it is none."""
    if assignments := list(itertools.takewhile(_ASSIGNMENT.match, command)):
        return f"no shell reads the command: write env {shlex.join(assignments)} …"
    if command[0] in _OF_SHELLS or not _SHELL_SIGNS.isdisjoint(command):
        return "no shell reads the command: write bash -c '…'"
    return ""


def _places(site: SitePlan, app: App, workspace: Workspace) -> tuple[Path, ...]:
    """Where the code of a script is: custom/ and, if the script is outside the job, its file."""
    script = Path(site.script)
    is_outside = script.is_absolute() and not script.is_relative_to(workspace.root)
    return (app.custom, script) if is_outside else (app.custom,)


def _fresh_where_needed(
    sites: Sequence[SitePlan], places: Mapping[str, tuple[Path, ...]], notes: list[str]
) -> list[SitePlan]:
    """The sites; those whose script may set a variable that torch reads at its import start without torch."""
    found = {of_site: variables_set(of_site) for of_site in places.values()}
    for file, names in [each for of_site in found.values() for each in of_site.items()]:
        notes.append(f"{file} sets {', '.join(names)}: each client imports torch itself, which takes seconds")
    return [
        msgspec.structs.replace(site, fresh=site.name in places and bool(found[places[site.name]])) for site in sites
    ]


def _check_compiles(script: Path) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(script.read_bytes(), str(script), "exec", dont_inherit=True)
    except SyntaxError as error:
        text = f"{script}:{error.lineno}: {type(error).__name__}: {error.msg}"
        raise JobError(text, file=str(script), line=error.lineno) from None
    except (ValueError, MemoryError, RecursionError) as error:
        raise JobError(f"{script} cannot be compiled: {error or type(error).__name__}") from None
    except OSError as error:
        raise JobError(f"{script} cannot be read: {error.strerror}") from None


def _doubts(server: ServerConfig) -> Iterator[str]:
    """What the user hardly means."""
    for spec in server.components:
        metric = spec.args.get("key_metric")
        selects = catalog.class_path(spec.path) == catalog.class_path(_SELECTOR)
        if selects and metric and looks_lower_is_better(str(metric)) and not spec.args.get("negate_key_metric"):
            doubt = f"{_SELECTOR}: key_metric = {metric!r} looks like a loss"
            yield f"{doubt}, but the highest value counts as the best: set negate_key_metric = true"
    named = {value for spec in (*server.workflows, *server.components) for value in _texts(spec.args)}
    for spec in server.components:
        if spec.id not in named and any(f".{room}." in catalog.class_path(spec.path) for room in _NAMED_BY_WORKFLOWS):
            yield f"no workflow names the component {spec.id!r} ({spec.path}): it has no effect"


def _texts(args: Mapping[str, Any]) -> set[str]:
    return {value for value in args.values() if isinstance(value, str)}


def _digests(apps: Iterable[App]) -> dict[str, str]:
    """SHA-256 of every file of the apps except the configs, which are in the plan. Raises JobError."""
    found: dict[str, str] = {}
    for app in apps:
        for path in files_in(app.folder):
            name = f"{app.name}/{path.relative_to(app.folder)}"
            try:
                name.encode()
                if path.parent != app.config or path.stem not in (SERVER_FILE, CLIENT_FILE):
                    found[name] = _digest(path)
            except UnicodeEncodeError:
                raise JobError(f"{name!r}: a file's name must be UTF-8") from None
            except OSError as error:
                raise JobError(f"{name} cannot be read: {error.strerror}") from None
    return found


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _variables(name: str, workspace: Workspace) -> dict[str, Any]:
    return {
        "SITE_NAME": name,
        "WORKSPACE": str(workspace.site(name)),
        "JOB_ID": JOB_ID,
        "JOB_CUSTOM_DIR": str(workspace.app(name) / "custom"),
        "JOB_CONFIG_DIR": str(workspace.app(name) / "config"),
        "ROOT_URL": "",  # no process of the simulator has a network address
        "CP_URL": "",
        "RELAY_URL": "",
        "SECURE_MODE": False,
    }


def _check_workflows(server: ServerConfig, app: App, sites: Sequence[SitePlan], names: Sequence[str]) -> None:
    """At least one client must take each task that a workflow asks for, and be called as it calls one.

    Without `sites`, the tasks are not checked.
    """
    patterns = {pattern for site in sites for pattern in site.config.tasks}
    with Gathering() as found:
        for workflow in server.workflows:
            at = (*server.places.get(workflow.id, ("workflows",)), "args")
            for argument, name in catalog.sites_named(workflow, [app.custom]):
                if name not in names:
                    text = f"{argument} of workflow {workflow.id!r}: there is no client {name!r}"
                    found.add(JobError(text, hint=nearest(name, names), file=server.file, at=(*at, argument)))
        for workflow in server.workflows if patterns else ():
            at = (*server.places.get(workflow.id, ("workflows",)), "args")
            for task in catalog.tasks_asked_for(workflow, [app.custom]):
                if not matches(task, patterns):
                    text = f"no client takes the task {task!r} of workflow {workflow.id!r}"
                    hint = f"executors list: {', '.join(sorted(patterns))}"
                    found.add(JobError(text, hint=hint, file=server.file, at=at))
