"""The client's executor: how config_fed_client says which script to start, and how models reach it."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from fedsag_cli.catalog.signatures import Parameter, Signature
from fedsag_cli.errors import JobError, nearest
from fedsag_cli.job.section import Section

NAME = "ClientAPIExecutor"
MODES = ("external_process", "in_process")
FORMATS = ("raw", "pytorch", "numpy")
TRANSFERS = ("FULL", "DIFF")

_NEEDED = object()
_DEFAULTS: dict[str, tuple[str, Any]] = {
    "execution_mode": ("str", _NEEDED),
    "command": ("str | list", None),
    "task_script_path": ("str", None),
    "task_script_args": ("str", ""),
    "launch_once": ("bool", True),
    "launch_timeout": ("float | None", 300.0),
    "train_task_name": ("str", "train"),
    "evaluate_task_name": ("str", "validate"),
    "submit_model_task_name": ("str", "submit_model"),
    "train_with_evaluation": ("bool", False),
    "params_exchange_format": ("str", "raw"),
    "params_transfer_type": ("str", "FULL"),
    "memory_gc_rounds": ("int", 0),
    "cuda_empty_cache": ("bool", False),
}
# what NVFLARE needs of its pipes and heartbeats; here a process that ends is seen at once
_UNUSED = (
    "shutdown_timeout", "stop_grace_period", "heartbeat_interval", "heartbeat_timeout",
    "task_wait_timeout", "result_wait_timeout", "server_expected_format",
)  # fmt: skip

SIGNATURE = Signature(
    parameters=[
        Parameter(name=name, annotation=kind, default=None if default is _NEEDED else default, required=False)
        for name, (kind, default) in _DEFAULTS.items()
    ]
    + [Parameter(name=name, annotation="float | str | None", default=None, required=False) for name in _UNUSED]
)

_MODE_ARGS = {"external_process": ("command",), "in_process": ("task_script_path", "task_script_args")}
_PYTHON = re.compile(r"python(3(\.\d+)?)?")


def is_executor(path: str) -> bool:
    return path.rpartition(".")[2] == NAME


def read_command(args: Section, custom: Path) -> tuple[list[str], str | None]:
    """The argument vector and, where it is python's, the script in it, as its mode says."""
    mode = args.text("execution_mode")
    if mode == "attach":
        raise args.wrong("execution_mode", "'attach' is not supported", hint="use external_process or in_process")
    if mode not in MODES:
        raise args.wrong("execution_mode", f"{mode!r} is not supported", hint=nearest(mode, MODES))
    for other, names in _MODE_ARGS.items():
        for name in names:
            if other != mode and args.values.get(name) not in (None, ""):
                raise args.wrong(name, f"goes with execution_mode {other!r}, not {mode!r}")
    if mode == "external_process":
        words = args.texts("command") if isinstance(args.values.get("command"), list) else _words(args, "command")
        if not words:
            raise args.wrong("command", "is empty")
        program = _script(words)
        if program and posixpath.normpath(program).split("/")[0] == "..":
            raise args.wrong("command", f"starts {program!r}, which is outside the app", hint="put it in custom/")
        return words, program
    script = _found(args, PurePosixPath(args.text("task_script_path")), custom)
    return ["python3", "-u", script, *_words(args, "task_script_args", "")], script


def _words(args: Section, key: str, default: str | None = None) -> list[str]:
    text = args.text(key, default)
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


def _found(args: Section, script: PurePosixPath, custom: Path) -> str:
    """The script below custom/ whose path ends as `script` does; custom/`script` where there is none yet."""
    if not script.name or script.is_absolute() or ".." in script.parts:
        raise args.wrong("task_script_path", f"{str(script)!r} must be the path of a script in custom/")
    if not (custom / script).is_file():
        below = (path.relative_to(custom) for path in sorted(custom.rglob("*")) if path.name == script.name)
        fits = (path for path in below if path.parts[-len(script.parts) :] == script.parts)
        found = [path for path in fits if (custom / path).is_file()]
        if len(found) > 1:
            paths = ", ".join(path.as_posix() for path in found)
            raise args.wrong("task_script_path", f"{str(script)!r} is found more than once: {paths}")
        script = PurePosixPath(*found[0].parts) if found else script
    return str(PurePosixPath("custom") / script)


def task_names(section: Section) -> list[str]:
    """The tasks an executor is listed for. Raises JobError where there is none."""
    tasks = section.texts("tasks")
    if not tasks:
        raise JobError(f"{section.called('tasks')} is empty", hint='a trainer has tasks = ["train"]')
    return tasks
