"""Creates a job folder from a template, completely or not at all."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fedsag_cli
from fedsag_cli.errors import JobError
from fedsag_cli.job import App, Job, Translate, as_written
from fedsag_cli.job.config import files, hocon, placeholders
from fedsag_cli.job.meta import ALL
from fedsag_cli.job.templates import find
from fedsag_cli.job.templates.draft import META, Draft, FileOverrides, make_draft
from fedsag_cli.job.templates.replace_folder import check_target, copy, exchange, new_folder_beside, recover
from fedsag_cli.job.templates.settings import absolute
from fedsag_cli.workspace import SERVER

_MADE_FROM = re.compile(r"# Made by fedsag \S+ from the template (?P<template>.+):")


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A new job, and notes for the user. `refusals`: why the simulator would reject it now."""

    folder: Path
    template: str
    notes: Sequence[str]
    warnings: Sequence[str]
    refusals: Sequence[str] = ()


@files.reading()
def create(
    folder: Path,
    template: str = find.DEFAULT,
    *,
    overrides: FileOverrides = (),
    script_dir: Path | None = None,
    force: bool = False,
    templates_dir: Path | None = None,
    command: Sequence[str] = (),
    translate: Translate = as_written,
) -> Made:
    """Create a job in `folder`. `command`: the user's command, to record in meta.conf. `translate`: as in Job.load.

    Raises JobError naming file and key, without changing any file.
    """
    folder = absolute(folder)
    name = folder.name
    folder = files.real(folder)
    if not name:
        raise JobError(f"{folder} cannot be a job", hint="-j names a folder to make")
    recover(folder.parent)
    check_target(folder, force=force)
    if script_dir is not None:
        script_dir = absolute(script_dir)
        _check_script_dir(script_dir, folder)
    found = find.find_template(template, templates_dir)
    if _overlap(files.real(found.folder), folder):
        raise JobError(f"the job {folder} and the template {found.folder} must not contain each other")
    draft = make_draft(found, name, overrides, script_dir)
    draft.texts[META] = _record(found.name, command) + draft.texts[META]
    with new_folder_beside(folder) as part:
        _write(draft, part / "new")
        notes = list(draft.notes)
        refusals = list(_refusals(part / "new", translate))
        check_target(folder, force=force)  # a file may have been added in the meantime
        notes += exchange(part, folder)
    return Made(folder=folder, template=found.name, notes=notes, warnings=draft.warnings, refusals=refusals)


def template_of(folder: Path) -> str | None:
    """The template of a job, from the comment in its meta.conf; None if there is no such comment."""
    try:
        first, *_ = hocon.text_of(folder / META, name=META, errors="replace").splitlines()
        found = _MADE_FROM.fullmatch(first)
        return shlex.split(found["template"])[0] if found else None
    except (JobError, ValueError, IndexError):
        return None


def _check_script_dir(script_dir: Path, folder: Path) -> None:
    if not script_dir.is_dir():
        problem = "is not a folder" if script_dir.exists() else "does not exist"
        raise JobError(f"-sd {script_dir} {problem}", hint="-sd names the folder of your scripts")
    if files.real(script_dir).is_relative_to(folder):
        raise JobError(
            f"-sd {script_dir} must not be in the job that -j names: {folder}",
            hint="create the job in another folder",
        )


def _overlap(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def _record(template: str, command: Sequence[str]) -> str:
    typed = " ".join(_quoted(word) for word in ["fedsag", *command])
    lines = [f"# Made by fedsag {fedsag_cli.__version__} from the template {_quoted(template)}:"]
    return "\n".join([*lines, *([f"#   {typed}"] if command else []), "", ""])


def _quoted(word: str) -> str:
    """The word, quoted for a shell, on one line."""
    if word.isprintable():
        return shlex.quote(word)
    plain = word.replace("\\", "\\\\").replace("'", "\\'")
    hidden = (char if char.isprintable() else "".join(f"\\x{b:02x}" for b in os.fsencode(char)) for char in plain)
    return f"$'{''.join(hidden)}'"


def _write(draft: Draft, new: Path) -> None:
    for app in draft.apps:
        (new / app / "config").mkdir(parents=True)
        (new / app / "custom").mkdir()
    for path, source in draft.copies.items():
        copy(source, new / path)
    for path, text in draft.texts.items():
        (new / path).parent.mkdir(parents=True, exist_ok=True)
        try:
            (new / path).write_bytes(text.encode())
        except UnicodeEncodeError:
            raise JobError(f"{path}: a value must be UTF-8") from None


def _refusals(folder: Path, translate: Translate) -> Iterator[str]:
    """Notes on why the simulator would reject the job now. They are not errors, as files may be added later."""
    try:
        job = Job.load(folder, translate)
        for name, app in job.apps.items():
            sites = job.meta.deploy_map[name]
            if SERVER in sites or ALL in sites:
                app.server(_variables(app, SERVER))
            for site in [site for site in sites if site != SERVER][:1]:
                yield from _missing_script(app, "site-1" if site == ALL else site)
    except JobError as error:
        hint = f" ({error.hint})" if error.hint else ""
        message = error.message.replace(f"{folder}{os.sep}", "")
        yield f"the simulator would reject this job now: {message}{hint}"


def _missing_script(app: App, site: str) -> Iterator[str]:
    for executor in app.client(_variables(app, site)).executors:
        if executor.script and not (app.folder / executor.script).is_file():
            yield f"{app.name}/{executor.script} does not exist yet: add it before you run the job"


def _variables(app: App, site: str) -> dict[str, Any]:
    return {**placeholders.nowhere(site), "JOB_CUSTOM_DIR": str(app.custom)}
