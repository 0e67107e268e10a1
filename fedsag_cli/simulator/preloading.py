"""Finds the modules that the processes of a run import, to import them once before the processes are forked."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path

import fedsag_cli
from fedsag_cli import catalog
from fedsag_cli.job import ServerConfig
from fedsag_cli.plan import ServerPlan

SERVER_MAIN = "fedsag_cli.server.main"
_OPTIMIZER = "torch.optim"
_MOST_SOURCES = 256  # that are not parsed again for the next run of a sweep
_IMPLY_TORCH = {
    "torch",
    "torchvision",
    "lightning",
    "pytorch_lightning",
    "torchmetrics",
    "transformers",
    "peft",
    "trl",
    "timm",
    "monai",
}


_ENVIRONMENT = re.compile(rb"\b(environ|putenv)\b")
_READ_AT_IMPORT = re.compile(r"(PYTORCH|TORCH[A-Z]*|TRITON|OMP|GOMP|KMP|MKL|MKLDNN|ONEDNN|DNNL)_[A-Z0-9_]+")
_READ_LATER = re.compile(r"(OMP|MKL)_NUM_THREADS|TORCH_(HOME|EXTENSIONS_DIR|NCCL_.*)|TORCHDYNAMO_DISABLE")


_TRAINERS = {
    "lightning": ["lightning.pytorch"],
    "pytorch_lightning": ["pytorch_lightning"],
    "transformers": ["transformers.trainer"],
    "peft": ["peft", "fedsag_cli.client.hf.peft_tables"],
    "trl": ["trl.trainer.sft_trainer"],
}
_LAZY = "transformers"  # it imports the module of a class only when the class is taken


def preload(imported: Set[str]) -> list[str]:
    """The modules to import once, before the processes are forked, because their import is slow.

    Also `module:name`, for a module that another one imports when this name is taken.
    """
    modules: list[str] = []
    if imported & _IMPLY_TORCH:
        modules.append("torch")
        modules += [module for package, found in _TRAINERS.items() if package in imported for module in found]
        modules += sorted(name for name in imported if name.startswith(f"{_LAZY}:"))
        if _OPTIMIZER in imported:
            modules.append("torch._dynamo")  # the first optimizer's step would import it, in every client
    if "torchvision" in imported:
        modules.append("torchvision")
    return modules


def modules_of_server(server: ServerPlan) -> list[str]:
    """The modules of fedsag that the server will import, and what these import later.

    The job's own modules are not in their folder yet.
    """
    paths = [catalog.class_path(spec.path) for spec in [*server.workflows, *server.components]]
    own = [path for path in paths if path.startswith("fedsag_cli.")]
    later = [name for path in own for name in catalog.facts_of(path, []).imports]
    return list(dict.fromkeys([SERVER_MAIN, *(path.rpartition(".")[0] for path in own), *later]))


def imports_of_scripts(places: Set[Path]) -> set[str]:
    """The packages that these modules, and those in these folders, import.

    Also _OPTIMIZER if they use an optimizer, and `package:name` for what they import from a package that is _LAZY.
    """
    names: set[str] = set()
    for file in (file for place in places for file in _modules(place)):
        try:
            names |= _imports(file.read_bytes())
        except (OSError, SyntaxError, ValueError, MemoryError, RecursionError):
            continue  # Python reports the error when the file is run
    return names


def variables_set(places: Iterable[Path]) -> dict[Path, Sequence[str]]:
    """The environment variables that these modules, and those in these folders, may set before they import torch.

    By the module. Only those that torch reads when it is imported; `client.threads` follows the numbers of threads.
    """
    found: dict[Path, Sequence[str]] = {}
    for file in (file for place in places for file in _modules(place)):
        try:
            if names := _variables(file.read_bytes()):
                found[file] = names
        except (OSError, SyntaxError, ValueError, MemoryError, RecursionError):
            continue  # Python reports the error when the file is run
    return found


@functools.lru_cache(maxsize=_MOST_SOURCES)
def _variables(source: bytes) -> Sequence[str]:
    if not _ENVIRONMENT.search(source):
        return ()
    return tuple(sorted({name for name in _names_set(ast.parse(source)) if _is_read_at_import(name)}))


def _is_read_at_import(name: str) -> bool:
    return bool(_READ_AT_IMPORT.fullmatch(name)) and not _READ_LATER.fullmatch(name)


def _names_set(tree: ast.Module) -> Iterator[str]:
    """Every text and every keyword of a call, except the names of variables that are only read."""
    only_read: set[ast.expr] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr="get" | "getenv") | ast.Name(id="getenv"), args=[name, *_]):
                only_read.add(name)
            case ast.Subscript(slice=name, ctx=ast.Load()) | ast.Compare(left=name):
                only_read.add(name)
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str() as text) if node not in only_read:
                yield text
            case ast.keyword(arg=str() as text):
                yield text


def _modules(place: Path) -> list[Path]:
    """The module, or those in the folder without the copy of fedsag_cli that an export adds: ours is used here."""
    if place.is_file():
        return [place]
    ours = place / fedsag_cli.__name__
    return [file for file in sorted(place.rglob("*.py")) if file.is_file() and ours not in file.parents]


def imports_of_components(server: ServerConfig, custom: Path) -> set[str]:
    """torch, if the class of one of the server's components declares that it needs it."""
    paths = [spec.path for spec in (*server.workflows, *server.components)]
    return {"torch"} if any(catalog.facts_of(path, [custom]).needs_torch for path in paths) else set()


@functools.lru_cache(maxsize=_MOST_SOURCES)
def _imports(source: bytes) -> Set[str]:
    """The packages, and names of _LAZY, that a module imports at its top level; torch even if only a function does.

    _OPTIMIZER too if it uses one.
    """
    found = {_OPTIMIZER} if b"optim" in source else set()
    for top in ast.parse(source).body:
        inside_function = isinstance(top, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        for node in ast.walk(top):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
                if node.module == _LAZY and not inside_function:
                    found |= {f"{_LAZY}:{alias.name}" for alias in node.names}
            packages = {name.split(".")[0] for name in names}
            found |= packages & {"torch"} if inside_function else packages
    return found
