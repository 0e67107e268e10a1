"""Whether a script answers the task to measure a model, as far as its code tells without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

_ASKS_FOR_THE_TASK = {"is_evaluate", "get_task_name"}
_ANSWERS = {
    "fedsag_cli.client.lightning": "validate",
    "nvflare.client.lightning": "validate",
    "fedsag_cli.client.hf": "evaluate",
    "nvflare.client.hf": "evaluate",
}
"""The method of a trainer that answers the task, by the module that patches the trainer."""
_MOST_MODULES = 1000


def answers_validate(script: str, folders: Sequence[Path]) -> bool | None:
    """Whether `script`, or a module that it imports from the folders, asks what its task is.

    With Lightning `trainer.validate`, with Hugging Face `trainer.evaluate` answers the task. None if the script is not
    there, or cannot be read.
    """
    found = next((path for path in (folder / script for folder in folders) if path.is_file()), None)
    tree = _parsed(found) if found else None
    if found is None or tree is None:
        return None
    return any(map(_answers, _with_imported(tree, [found.parent, *folders])))


def _answers(tree: ast.Module) -> bool:
    names, attributes, modules = set[str](), set[str](), set(_imports(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Attribute):
            attributes.add(node.attr)
    asks = not _ASKS_FOR_THE_TASK.isdisjoint(names | attributes)
    return asks or any(_ANSWERS.get(name) in attributes for name in modules)


def _with_imported(first: ast.Module, folders: Sequence[Path]) -> Iterator[ast.Module]:
    known: set[Path] = set()
    waiting = [first]
    while waiting:
        tree = waiting.pop()
        yield tree
        for file in _files(tree, folders):
            if file not in known and len(known) < _MOST_MODULES:
                known.add(file)
                if (imported := _parsed(file)) is not None:
                    waiting.append(imported)


def _files(tree: ast.Module, folders: Sequence[Path]) -> Iterator[Path]:
    for name in _imports(tree):
        for folder in folders:
            stem = folder.joinpath(*name.split("."))
            yield from (file for file in (stem.with_name(f"{stem.name}.py"), stem / "__init__.py") if file.is_file())


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _parsed(file: Path) -> ast.Module | None:
    try:
        return ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, MemoryError, RecursionError):
        return None  # Python reports the error when the file is run
