"""References to secrets in the words of a script: `${secret:VARIABLE}` and `${secret:file:PATH}`, as in NVFLARE.

The job and the plan have the reference; only the process of the client gets the value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from fedsag_cli.errors import JobError

_REFERENCE = re.compile(r"\$\{secret:(?:file:(?P<file>[^\s{}]+)|(?P<variable>[A-Za-z_][A-Za-z0-9_]*))\}")


def resolved(word: str, env: Mapping[str, str]) -> str:
    """The word with the values in place of the references. Raises JobError naming one that has no value."""
    return _REFERENCE.sub(lambda found: _value(found["file"], found["variable"], env), word)


def _value(file: str | None, variable: str | None, env: Mapping[str, str]) -> str:
    if file is None:
        if (value := env.get(variable or "")) is None:
            raise JobError(f"${{secret:{variable}}}: the variable {variable} of the environment is not set")
        return value
    try:
        return Path(file).read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, ValueError) as error:
        raise JobError(f"${{secret:file:{file}}}: the file cannot be read: {error}") from None
