"""The code outside the job that the clients' commands name, with the modules that lie beside it.

A resumed run must have it as it was. What a script opens itself is not looked at.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

from fedsag_cli.record import sha256_of

_CODE = {".py", ".sh", ".bash", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".conf"}  # other files may be results
_MOST_MODULES = 1000


def digests(words: Iterable[str], inside: Iterable[Path]) -> dict[str, str]:
    """The SHA-256 of each such file, by its absolute path. `inside`: the folders of the job and of the run."""
    folders = [folder.resolve() for folder in inside]
    scripts = [
        path
        for path in dict.fromkeys(Path(word.rpartition("=")[2]) for word in words)
        if path.suffix in _CODE and path.is_absolute() and not any(map(path.resolve().is_relative_to, folders))
    ]
    files = dict.fromkeys(file for script in scripts for file in (script, *_imported(script)))
    return {str(file): digest for file in files if (digest := _digest(file))}


def _imported(script: Path) -> list[Path]:
    """The modules in the script's folder that it imports, and those that they import there."""
    found: dict[Path, None] = {}
    waiting = [script] if script.suffix == ".py" else []
    while waiting and len(found) < _MOST_MODULES:
        try:
            tree = ast.parse(waiting.pop().read_bytes())
        except (OSError, SyntaxError, ValueError, MemoryError, RecursionError):
            continue
        for name in _names(tree):
            stem = script.parent.joinpath(*name.split("."))
            for file in (stem.with_name(f"{stem.name}.py"), stem / "__init__.py"):
                if file not in found and file.is_file():
                    found[file] = None
                    waiting.append(file)
    return list(found)


def _names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _digest(file: Path) -> str:
    """Empty where it cannot be read: the script will say so."""
    try:
        return sha256_of(file)
    except (OSError, ValueError):
        return ""
