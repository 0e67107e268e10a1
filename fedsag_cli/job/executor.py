"""The client's executor in config_fed_client: the script to start, and the settings of the Client API."""

from __future__ import annotations

import functools
import posixpath
import re
import shlex
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, NamedTuple

import msgspec

from fedsag_cli.arguments import OneOf, declared_fields
from fedsag_cli.catalog.signatures import Signature
from fedsag_cli.errors import Gathering
from fedsag_cli.facts import Nvflare
from fedsag_cli.job.config import files
from fedsag_cli.job.section import Section
from fedsag_cli.plan import ClientConfig, FilterSpec

NAME = "ClientAPIExecutor"

NVFLARE = Nvflare(
    path="nvflare.app_common.executors.client_api_executor.ClientAPIExecutor",
    also={
        "ClientAPILauncherExecutor": {"execution_mode": "external_process", "params_exchange_format": "numpy"},
        "PTClientAPILauncherExecutor": {"execution_mode": "external_process", "params_exchange_format": "pytorch"},
        "InProcessClientAPIExecutor": {"execution_mode": "in_process", "params_exchange_format": "numpy"},
        "PTInProcessClientAPIExecutor": {"execution_mode": "in_process", "params_exchange_format": "pytorch"},
        "ScriptExecutor": {"execution_mode": "in_process", "params_exchange_format": "numpy"},
        "PTScriptExecutor": {"execution_mode": "in_process", "params_exchange_format": "pytorch"},
    },
    ignored=(  # for NVFLARE's pipes and heartbeats; fedsag notices the end of a process at once
        "pipe_id", "launcher_id", "task_wait_timeout", "task_wait_time", "last_result_transfer_timeout",
        "external_execution_wait", "external_pre_init_timeout", "peer_read_timeout", "monitor_interval",
        "read_interval", "heartbeat_interval", "heartbeat_timeout", "workers", "config_file_name",
        "resend_interval", "max_resends", "result_poll_interval", "result_pull_interval", "log_pull_interval",
        "pipe_channel_name", "download_complete_timeout", "shutdown_timeout", "stop_grace_period",
        "result_wait_timeout", "submit_result_timeout", "server_expected_format", "attach_id", "attach_timeout",
        "allow_reconnect", "allow_insecure_attach",
    ),
    expected={"from_nvflare_converter_id": (None, ""), "to_nvflare_converter_id": (None, "")},
)  # fmt: skip
"""NVFLARE's executors, and how their arguments differ."""

_PYTHON = re.compile(r"python(3(\.\d+)?)?")


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """The command of a client: the executor's arguments that are not in ClientConfig."""

    execution_mode: Annotated[
        str,
        OneOf(["external_process", "in_process"]),
        "external_process starts command; in_process starts task_script_path (in fedsag also in its own process)",
    ]
    command: Annotated[
        str | list[str] | None, "command that starts the script, with execution_mode external_process"
    ] = None
    task_script_path: Annotated[
        str | None, "script in custom/, or its absolute path elsewhere, with execution_mode in_process"
    ] = None
    task_script_args: Annotated[str | None, "arguments of task_script_path, as on a command line"] = ""


class Command(NamedTuple):
    """The argument vector and, for a python command, its script. `in_process`: the job's execution_mode."""

    words: list[str]
    script: str | None
    in_process: bool


_MODE_ARGS = {"external_process": ("command",), "in_process": ("task_script_path", "task_script_args")}


def is_executor(path: str) -> bool:
    return path.rpartition(".")[2] == NAME


@functools.cache
def signature() -> Signature:
    """The executor's arguments, without those that only NVFLARE's executor has (see `is_ignored`)."""
    return Signature(arguments=[*declared_fields(Start), *declared_fields(ClientConfig)])


def is_ignored(name: str) -> bool:
    """Whether only NVFLARE's executor has this argument."""
    return name in NVFLARE.ignored


def read_config(
    tasks: Sequence[str], args: Section, data_filters: list[FilterSpec], result_filters: list[FilterSpec]
) -> ClientConfig:
    """The client's configuration, from checked arguments."""
    given = {argument.name for argument in declared_fields(ClientConfig)} & set(args.values)
    values = {name: args.values[name] for name in given}
    filters = {"task_data_filters": data_filters, "task_result_filters": result_filters}
    return msgspec.convert({"tasks": tasks, **values, **filters}, ClientConfig)


def read_command(args: Section, custom: Path) -> Command:
    """The client's command, from checked arguments. Raises JobError."""
    start = _start(args)
    with Gathering() as found:
        for mode, names in _MODE_ARGS.items():
            for name in names:
                if mode != start.execution_mode and args.values.get(name) not in (None, ""):
                    found.add(args.wrong(name, f"goes with execution_mode {mode!r}, not {start.execution_mode!r}"))
                if mode == start.execution_mode and name == names[0] and args.values.get(name) is None:
                    found.add(args.wrong(name, "is missing", hint=f"execution_mode {mode!r} needs it"))
    if start.execution_mode == "external_process":
        words = start.command if isinstance(start.command, list) else _words(args, "command", start.command or "")
        if not words:
            raise args.wrong("command", "is empty")
        program = _script(words)
        if program and posixpath.normpath(program).split("/")[0] == "..":
            raise args.wrong("command", f"starts {program!r}, which is outside the app", hint="put it in custom/")
        return Command(words, program, in_process=False)
    script = _find_script(args, PurePosixPath(start.task_script_path or ""), custom)
    words = ["python3", "-u", script, *_words(args, "task_script_args", start.task_script_args or "")]
    return Command(words, script, in_process=True)


def _start(args: Section) -> Start:
    try:
        return msgspec.convert(args.values, Start)
    except msgspec.ValidationError:  # only the words of a command were not checked before
        raise args.wrong("command", f"must be a list of texts, not {args.values['command']!r}") from None


def _words(args: Section, key: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise args.wrong(key, f"{text!r} cannot be split into words: {error}") from None


def _script(words: Sequence[str]) -> str | None:
    python, *rest = words
    if not _PYTHON.fullmatch(python):
        return None
    if rest[:1] == ["-u"]:
        rest = rest[1:]
    return rest[0] if rest and not rest[0].startswith("-") else None


def _find_script(args: Section, script: PurePosixPath, custom: Path) -> str:
    """The script in custom/ or a subfolder whose path ends with `script`; custom/`script` if it does not exist yet.

    An absolute path names the script itself, wherever it is, or else the script of that name in custom/.
    """
    if not script.name or ".." in script.parts:
        raise args.wrong("task_script_path", f"{str(script)!r} must be the path of a script in custom/, or absolute")
    if script.is_absolute():
        if (own := _below(custom, script)) is not None:
            script = own
        elif Path(script).is_file() or not _ending_with(PurePosixPath(script.name), custom):
            return str(script)
        else:
            script = PurePosixPath(script.name)
    if not (custom / script).is_file():
        found = _ending_with(script, custom)
        if len(found) > 1:
            paths = ", ".join(path.as_posix() for path in found)
            raise args.wrong("task_script_path", f"{str(script)!r} is found more than once: {paths}")
        script = PurePosixPath(*found[0].parts) if found else script
    return str(PurePosixPath("custom") / script)


def _below(folder: Path, path: PurePosixPath) -> PurePosixPath | None:
    """The path relative to the folder, links resolved; None if it is not in the folder."""
    real, inside = files.real(folder), files.real(Path(path))
    return PurePosixPath(inside.relative_to(real)) if inside.is_relative_to(real) else None


def _ending_with(script: PurePosixPath, custom: Path) -> list[Path]:
    """The files in custom/ and its subfolders whose path ends with `script`, relative to custom/."""
    below = (path.relative_to(custom) for path in sorted(custom.rglob("*")) if path.name == script.name)
    fits = (path for path in below if path.parts[-len(script.parts) :] == script.parts)
    return [path for path in fits if (custom / path).is_file()]


def task_names(section: Section) -> list[str]:
    """The tasks of an entry of `executors`. Raises JobError if there is none."""
    tasks = section.texts("tasks")
    if not tasks:
        raise section.wrong("tasks", "is empty", hint='a trainer has tasks = ["train"]')
    return tasks
