"""The settings of a job, and which of them its template has otherwise."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

import fedsag_cli
from fedsag_cli.errors import JobError
from fedsag_cli.job import Job
from fedsag_cli.job.config import CLIENT_FILE, SERVER_FILE, files, hocon, tree
from fedsag_cli.job.templates.create import template_of
from fedsag_cli.job.templates.draft import META, FileNames, make_draft
from fedsag_cli.job.templates.find import find_folder, find_template
from fedsag_cli.machine import fedsag_home
from fedsag_cli.workspace import write_whole

_NAME = f"{META} name"  # that of the job's folder
_LONGEST, _BEGINNING = 1000, 100  # bytes of a value, as JSON; a model may be written in a config
_READ = ("meta", SERVER_FILE, CLIENT_FILE)


def settings(job: Job) -> dict[str, Any]:
    """The values in a job's config files, long ones shortened, by file and key, such as
    "config_fed_server.conf workflows[0].args.num_rounds". Raises JobError.
    """
    return _flat(job.written())


@files.reading()
def changes(folder: Path, values: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The template of the job in `folder`, whose settings these are, and those that the template has otherwise.

    They have the template's values; None for what it does not have. Without a template, or if it is not found, the name
    is empty. Raises JobError.
    """
    name = template_of(folder)
    if name is None:
        return "", {}
    try:
        defaults = _defaults(name)
    except JobError:  # it is gone, or has changed
        return "", {}
    keys = dict.fromkeys([*values, *defaults])
    del keys[_NAME]
    return name, {key: defaults.get(key) for key in keys if not _is_same(key, values, defaults)}


def _is_same(key: str, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> bool:
    """With ==, 1 would be equal to true."""
    return key in values and key in defaults and repr(values[key]) == repr(defaults[key])


def _defaults(name: str) -> dict[str, Any]:
    """The settings of a job that was made from the template without a change.

    Making one takes half a second, so they are kept, with a digest of all that they are made of.
    """
    folder, _ = find_folder(name)
    kept = fedsag_home() / "cache" / f"template-{_digest(folder)}.json"
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode(kept.read_bytes(), type=dict[str, Any])
    found = _flat(dict(_files_of(name)))
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_whole(kept, lambda file: file.write(msgspec.json.encode(found)), shared=True)
    return found


def _digest(folder: Path) -> str:
    sha = hashlib.sha256(fedsag_cli.__version__.encode())
    for name, path in files.below(folder):
        if path.suffix in hocon.CONFIG_SUFFIXES:
            sha.update(f"\0{name}\0".encode() + path.read_bytes())
    return sha.hexdigest()[:32]


def _files_of(name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    draft = make_draft(find_template(name), "job")
    for path in dict.fromkeys([*draft.texts, *draft.copies]):
        file = Path(path)
        if file.stem not in _READ or file.suffix not in hocon.CONFIG_SUFFIXES or "custom" in file.parts:
            continue
        if path in draft.texts:
            yield path, hocon.loads(draft.texts[path], name=path, suffix=file.suffix)
        else:
            yield path, hocon.load(draft.copies[path], name=path)


def _flat(texts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    names = FileNames(list(texts), list({path.partition("/")[0] for path in texts if "/" in path}))
    return {
        f"{names.short(path)} {tree.written(at)}": value
        for path, conf in texts.items()
        for at, value in tree.leaves(_brief(conf))
    }


def _brief(value: Any) -> Any:
    """The value without what is too long to be shown: of a long text or list there is the beginning, and a digest."""
    if isinstance(value, Mapping):
        return {key: _brief(inner) for key, inner in value.items()}
    if isinstance(value, list) and _has_mapping(value):
        return [_brief(inner) for inner in value]
    text = msgspec.json.encode(value)
    if not isinstance(value, str | list) or len(text) <= _LONGEST:
        return value
    begins = text[:_BEGINNING].decode(errors="ignore")
    return f"{begins}… ({len(text):,} bytes, SHA-256 {hashlib.sha256(text).hexdigest()[:12]})"


def _has_mapping(values: list[Any]) -> bool:
    return any(isinstance(inner, Mapping) or (isinstance(inner, list) and _has_mapping(inner)) for inner in values)
