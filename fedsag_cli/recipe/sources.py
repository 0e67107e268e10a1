"""Copies scripts and modules of the user into a job, with the modules of their own that they import."""

from __future__ import annotations

import ast
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedsag_cli.errors import JobError, UsageError


def check(script: str) -> None:
    """Raises UsageError if there is no such file or folder."""
    if not Path(script).exists():
        raise UsageError(f"{script}: there is no such file", hint=f"the current folder is {Path.cwd()}")


def name_in_job(script: str) -> str:
    """The path in custom/ of a script: as it is given; of an absolute one, from the folder of its modules."""
    path = Path(os.path.normpath(script))
    if path.is_absolute():
        folders = [Path(folder or ".").resolve() for folder in sys.path]
        above = [folder for folder in folders if path.resolve().is_relative_to(folder)]
        path = (
            path.resolve().relative_to(max(above, key=lambda folder: len(folder.parts))) if above else Path(path.name)
        )
    if path.parts[:1] == ("..",):
        raise UsageError(f"{script} is outside the current folder", hint="start the script in the folder above both")
    return str(path)


class Sources:
    """The modules of one app. Each is copied once."""

    def __init__(self, custom: Path) -> None:
        self._custom = custom
        self._from: dict[Path, Path] = {}

    def add(self, path: str) -> None:
        """Copy a script, with what it imports; or all that is in a folder."""
        check(path)
        if Path(path).is_dir():
            shutil.copytree(path, self._custom, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
            return
        source = Path(path).resolve()
        self._copy(source, Path(name_in_job(path)), [source.parent, Path.cwd(), source.parent.parent])

    def add_module(self, module: str, source: Path) -> None:
        """Copy a module, with what it imports."""
        inside = Path(*module.split("."))
        if source.name == "__init__.py":
            inside = inside / "__init__"
        root = source.parents[len(inside.parts) - 1]
        self._copy(source, inside.with_suffix(".py"), [root])

    def _copy(self, source: Path, inside: Path, roots: Sequence[Path]) -> None:
        target = self._custom / inside
        before = self._from.setdefault(target, source)
        if before != source:
            raise UsageError(f"{before} and {source} have the same place in the job: custom/{inside}")
        if target.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        if source.suffix != ".py":
            return
        for module in _imported(source, inside):
            for root in roots:
                found = [root / module.with_suffix(".py"), root / module / "__init__.py"]
                if (file := next((each for each in found if each.is_file()), None)) is not None:
                    self._copy_packages(root, module)
                    self._copy(file.resolve(), file.relative_to(root), roots)
                    break

    def _copy_packages(self, root: Path, module: Path) -> None:
        for package in list(module.parents)[:-1]:
            begin = root / package / "__init__.py"
            if begin.is_file():
                self._copy(begin.resolve(), package / "__init__.py", [root])


def _imported(source: Path, inside: Path) -> Iterator[Path]:
    """The modules that a file imports, as paths: also `a/b` of `from a import b`."""
    try:
        tree = ast.parse(source.read_bytes(), filename=str(source))
    except (SyntaxError, ValueError) as error:
        raise JobError(f"{source} cannot be read as Python: {error}") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Path(*each.name.split(".")) for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = Path(*(node.module or "").split(".")) if node.module else Path()
            if node.level:
                base = Path(*inside.parts[: max(0, len(inside.parts) - node.level)]) / base
            if base.parts:
                yield base
            yield from (base / each.name for each in node.names if each.name != "*")
