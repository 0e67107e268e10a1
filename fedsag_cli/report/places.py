"""The paths in a report: relative in report.json, so that they are true wherever the run is moved; else absolute."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from fedsag_cli.events import Failure
from fedsag_cli.report import Report


def relative(report: Report) -> Report:
    """The paths of the run's own files begin at its workspace; so do those in commands, as `./…`."""
    root = report.workspace

    def path(text: str) -> str:
        return str(Path(text).relative_to(root)) if text and Path(text).is_relative_to(root) else text

    def command(text: str) -> str:
        return re.sub(rf"(?<=[\s'=])({re.escape(root)}|{re.escape(_in_quotes(root))})/", "./", text)

    hint = report.hint.replace(f"-w {shlex.quote(root)} ", "-w . ")
    return _with_paths(report, path, command, hint) if root else report


def located(report: Report, root: Path) -> Report:
    """The report of the run that is now in the folder `root`, with the paths of now."""
    before, now = report.workspace, str(root)

    def path(text: str) -> str:
        if not text:
            return text
        in_it = Path(text).relative_to(before) if before and Path(text).is_relative_to(before) else Path(text)
        return str(root / in_it)

    def command(text: str) -> str:
        quoted = re.sub(r"(?<=')\./", lambda _: f"{_in_quotes(now)}/", text)
        return re.sub(r"(?<=[\s=])\./", lambda _: f"{shlex.quote(now)}/", quoted)

    hint = report.hint.replace("-w . ", f"-w {shlex.quote(now)} ")
    return replace(_with_paths(report, path, command, hint), workspace=now)


def _with_paths(report: Report, path: Callable[[str], str], command: Callable[[str], str], hint: str) -> Report:
    def failed(failures: dict[str, Failure]) -> dict[str, Failure]:
        return {site: replace(each, log=path(each.log)) for site, each in failures.items()}

    return replace(
        report,
        models=list(map(path, report.models)),
        curves=list(map(command, report.curves)),
        hint=hint,
        rounds=[replace(each, failed=failed(each.failed)) if each.failed else each for each in report.rounds],
        validations=[replace(each, failed=failed(each.failed)) for each in report.validations],
        final_failed=failed(report.final_failed),
        failures={
            site: replace(first, failure=replace(first.failure, log=path(first.failure.log)))
            for site, first in report.failures.items()
        },
    )


def _in_quotes(text: str) -> str:
    """The text within the single quotes of a shell."""
    return text.replace("'", "'\"'\"'")
