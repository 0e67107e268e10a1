"""What a job may name: a short name or a class path becomes an object, an id becomes the object it stands for.

Importing this imports none of the components: the parent looks them up by name only, the server builds them.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from fedsag_cli.errors import JobError, nearest
from fedsag_cli.filters import Chain
from fedsag_cli.messages import FilterSpec

KNOWN = {
    "ScatterAndGather": "fedsag_cli.workflows.scatter_and_gather.ScatterAndGather",
    "FedAvg": "fedsag_cli.aggregators.fedavg.FedAvg",
    "PTFileModelPersistor": "fedsag_cli.persistors.PTFileModelPersistor",
    "NPModelPersistor": "fedsag_cli.persistors.NPModelPersistor",
    "IntimeModelSelector": "fedsag_cli.workflows.model_selector.IntimeModelSelector",
    "ExcludeVars": "fedsag_cli.filters.exclude_vars.ExcludeVars",
}

_NEED_TORCH = {"PTFileModelPersistor"}


class ComponentSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a config file says of one component. `path` is a short name of ours or `package.module.Class`."""

    path: str
    id: str = ""
    args: dict[str, Any] = {}


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


def class_path(name: str) -> str:
    """The class path of a short name; a class path as it stands."""
    return KNOWN.get(name, name)


def is_same(name: str, other: str) -> bool:
    """Whether two names, short or full, mean the same component."""
    return class_path(name) == class_path(other)


def needs_torch(name: str) -> bool:
    """Whether one of our components cannot work without torch."""
    return any(is_same(name, other) for other in _NEED_TORCH)


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
    module, _, last = class_path(name).rpartition(".")
    if not module:
        raise JobError(f"no component is called {name!r}", hint=nearest(name, KNOWN))
    file = find_module(module, search)
    if file is None:
        if _is_installed(module):
            return None  # compiled, perhaps: its package is there, its source is not
        raise JobError(f"{name!r}: there is no module {module!r}", hint=nearest(name, KNOWN))
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


def build(spec: ComponentSpec, parts: Mapping[str, Any]) -> Any:
    """The object a spec describes; `x_id="y"` in its args becomes x=parts["y"]. Imports its module.

    Raises JobError where it cannot be imported or made, naming the component and the reason.
    """
    made = _import(spec)
    known = inspect.signature(made).parameters
    args: dict[str, Any] = {}
    for key, value in spec.args.items():
        name = key.removesuffix("_id")
        if key not in known and name in known:
            if value in ("", None):
                continue
            if value not in parts:
                raise JobError(f"{_called(spec)}: {key} is {value!r}: no such component", hint=nearest(value, parts))
            args[name] = parts[value]
        else:
            args[key] = _build_nested(value)
    try:
        return made(**args)
    except Exception as error:
        # whatever a constructor raises, a user's own too, the job's author has to know which component it was
        raise JobError(f"{_called(spec)} cannot be made: {type(error).__name__}: {error}") from error


def chain(specs: Sequence[FilterSpec]) -> Chain:
    """The filters of one direction. Raises JobError."""
    return Chain([(spec.tasks, build(ComponentSpec(path=spec.path, args=spec.args), {})) for spec in specs])


def _build_nested(value: Any) -> Any:
    if isinstance(value, Mapping):
        path = value.get("path") or value.get("class_path")
        if isinstance(path, str) and value.get("config_type") != "dict":
            return build(ComponentSpec(path=path, args=dict(value.get("args") or {})), {})
        return {key: _build_nested(inner) for key, inner in value.items()}
    return [_build_nested(inner) for inner in value] if isinstance(value, list) else value


def _import(spec: ComponentSpec) -> Any:
    module, _, name = class_path(spec.path).rpartition(".")
    if not module:
        raise JobError(f"no component is called {spec.path!r}", hint=nearest(spec.path, KNOWN))
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise JobError(f"{_called(spec)} cannot be imported: {error}") from error
    except Exception as error:
        # a module of the user's own may raise anything
        raise JobError(f"{_called(spec)} cannot be imported: {type(error).__name__}: {error}") from error


def _called(spec: ComponentSpec) -> str:
    return f"component {spec.id!r} ({spec.path})" if spec.id else f"component {spec.path!r}"
