"""What a class or function takes, read from its source: nothing is imported to find out."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsag_cli.errors import JobError, nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One argument of a component's constructor. `default` is None where there is none to show."""

    name: str
    annotation: str
    default: Any
    required: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What a component's constructor takes. `open_ended`: it takes any keyword."""

    parameters: Sequence[Parameter]
    open_ended: bool = False

    def takes(self, name: str) -> bool:
        """Whether `name` may stand in a job's args: itself, or `x_id` for an argument `x` that is another component."""
        names = {parameter.name for parameter in self.parameters}
        return self.open_ended or name in names or name.removesuffix("_id") in names


def find_module(module: str, search: Sequence[Path] = ()) -> Path | None:
    """The source file of `module`: in one of the `search` folders first, then where Python would find it.

    Nothing is imported, not even the packages above it: the parent process stays without torch.
    """
    top, *below = module.split(".")
    for folder in search:
        if file := _source(folder, [top, *below]):
            return file
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not below:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    found = (_source(Path(folder), below) for folder in spec.submodule_search_locations or ())
    return next((file for file in found if file), None)


def signature(name: str, search: Sequence[Path] = ()) -> Signature | None:
    """What the class or function `name` takes, read from its source; None where the source does not tell.

    Raises JobError where the module, or the name in it, does not exist.
    """
    module, _, last = name.rpartition(".")
    file = find_module(module, search)
    if file is None:
        if _is_installed(module):
            return None  # compiled, perhaps: its package is there, its source is not
        raise JobError(f"{name!r}: there is no module {module!r}")
    try:
        tree = ast.parse(file.read_bytes(), filename=str(file))
    except SyntaxError as error:
        raise JobError(f"{name!r}: {file}:{error.lineno}: {error.msg}") from None
    made = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    match made.get(last):
        case ast.ClassDef(body=body):
            inits = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
            return _read_signature(inits[0].args, skip=1) if inits else None
        case ast.FunctionDef(args=args):
            return _read_signature(args, skip=0)
    bound = _names_bound(tree)
    if last in bound or "*" in bound:
        return None  # made somewhere else
    raise JobError(f"{name!r}: {file.name} has no class {last!r}", hint=nearest(last, made))


def _source(folder: Path, parts: Sequence[str]) -> Path | None:
    base = folder.joinpath(*parts)
    return next((file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file()), None)


def _is_installed(module: str) -> bool:
    top, *below = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return False
    if spec is None or not below:
        return spec is not None
    bases = (Path(folder).joinpath(*below) for folder in spec.submodule_search_locations or ())
    return any(base.is_dir() or any(base.parent.glob(f"{base.name}.*")) for base in bases)


def _names_bound(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def _read_signature(args: ast.arguments, *, skip: int) -> Signature:
    """`skip`: so many arguments come first that no caller gives, such as self."""
    positional = [*args.posonlyargs, *args.args][skip:]
    defaults: list[ast.expr | None] = [*args.defaults]
    defaults = defaults[max(0, len(defaults) - len(positional)) :]
    defaults[:0] = [None] * (len(positional) - len(defaults))
    pairs = [*zip(positional, defaults, strict=True), *zip(args.kwonlyargs, args.kw_defaults, strict=True)]
    return Signature(
        parameters=[
            Parameter(
                name=arg.arg,
                annotation=ast.unparse(arg.annotation) if arg.annotation else "",
                default=_literal(default),
                required=default is None,
            )
            for arg, default in pairs
        ],
        open_ended=args.kwarg is not None,
    )


def _literal(node: ast.expr | None) -> Any:
    if node is None:
        return None
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None
