"""Reads the arguments of a class or function from its source, without importing or running it."""

from __future__ import annotations

import ast
import functools
import importlib.util
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fedsag_cli import arguments, facts
from fedsag_cli.arguments import Argument, Needs, Rule
from fedsag_cli.errors import JobError, nearest
from fedsag_cli.facts import Facts

_CONSTRUCTORS: dict[tuple[str, str], type] = {
    **{(arguments.__name__, name): kind for name, kind in arguments.RULES.items()},
    **{(facts.__name__, kind.__name__): kind for kind in (facts.Facts, facts.Nvflare)},
}
_MOST_STEPS = 10_000  # for one argument: lists of names of lists of names … could fill the memory
_MOST_IMPORTS = 20
_WRONG_SOURCE = (SyntaxError, ValueError, RecursionError, MemoryError)  # what Python raises for a text it cannot read


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """The arguments of a constructor. `open_ended`: it takes any other keyword, too."""

    arguments: Sequence[Argument]
    open_ended: bool = False

    def takes(self, name: str) -> bool:
        """Whether a job's args may have `name`: an argument, or `x_id` for an argument `x` that is a component."""
        names = {argument.name for argument in self.arguments}
        return self.open_ended or name in names or name.removesuffix("_id") in names


def find_module(module: str, search: Sequence[Path] = ()) -> Path | None:
    """The source file of `module`: first in the `search` folders, then as Python would find it.

    No package is imported, not even a parent package, so that the parent process does not import torch.
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
    """The arguments of the class or function `name`, read from its source; None if the source does not show them.

    Raises JobError if the module, or the name in it, does not exist.
    """
    module, _, last = name.rpartition(".")
    try:
        source = _module_of(module, search)
    except SyntaxError as error:
        raise JobError(f"{name!r}: {error.filename}:{error.lineno}: {error.msg}") from None
    if source is None:
        if _is_installed(module):
            return None  # perhaps compiled: the package exists, but its source does not
        raise JobError(f"{name!r}: there is no module {module!r}")
    made = {node.name: node for node in source.tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    match made.get(last):
        case ast.ClassDef(body=body):
            inits = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
            return _Reader(search).signature(source, inits[-1].args, skip=1) if inits else None  # after overloads
        case ast.FunctionDef(args=args):
            return _Reader(search).signature(source, args, skip=0)
    bound = _names_bound(source.tree)
    if last in bound or "*" in bound:
        return None  # defined in another module
    raise JobError(f"{name!r}: {source.file.name} has no class {last!r}", hint=nearest(last, made))


def facts_in_source(name: str, search: Sequence[Path] = ()) -> Facts:
    """The attribute `facts` of the class `name`; empty Facts if there is no such class or attribute."""
    module, _, last = name.rpartition(".")
    try:
        source = _module_of(module, search)
        for node in source.tree.body if source else ():
            if source and isinstance(node, ast.ClassDef) and node.name == last:
                value = dict(_assignments(node.body)).get("facts")
                found = None if value is None else _Reader(search).value(source, value)
                return found if isinstance(found, Facts) else Facts()
    except (_Unreadable, *_WRONG_SOURCE):
        pass  # the error is reported when the job is read
    return Facts()


def base_of(package: str, name: str, search: Sequence[Path]) -> str:
    """The class of `package` from which the class `name` of a job derives, as its source shows; empty if from none."""
    names, seen = [name], set[str]()
    while names:
        name = names.pop()
        module, _, last = name.rpartition(".")
        if seen and module.partition(".")[0] == package:
            return name
        if name in seen or not any(_source(folder, module.split(".")) for folder in search):
            continue
        seen.add(name)
        try:
            source = _module_of(module, search)
        except _WRONG_SOURCE:
            continue  # the error is reported when the class is read
        names += _bases(source, last) if source else ()
    return ""


class _Unreadable(Exception):
    """An expression that is not a literal, and not the name of one."""


class _Module(msgspec.Struct, frozen=True):
    """`values`: of the names that are assigned at its top level."""

    name: str
    file: Path
    tree: ast.Module
    values: Mapping[str, ast.expr]


class _Reader:
    """Reads annotations, defaults and facts that consist of literals, names of constants and calls of _CONSTRUCTORS."""

    def __init__(self, search: Sequence[Path]) -> None:
        self._search = search
        self._steps = _MOST_STEPS

    def signature(self, module: _Module, args: ast.arguments, *, skip: int) -> Signature:
        """`skip`: the number of arguments at the start that callers do not give, such as self."""
        positional = [*args.posonlyargs, *args.args][skip:]
        defaults: list[ast.expr | None] = [*args.defaults]
        defaults = defaults[max(0, len(defaults) - len(positional)) :]
        defaults[:0] = [None] * (len(positional) - len(defaults))
        pairs = [*zip(positional, defaults, strict=True), *zip(args.kwonlyargs, args.kw_defaults, strict=True)]
        return Signature(
            arguments=[self._argument(module, arg, default) for arg, default in pairs],
            open_ended=args.kwarg is not None,
        )

    def _argument(self, module: _Module, arg: ast.arg, default: ast.expr | None) -> Argument:
        types: list[str] = []
        notes: list[Any] = []
        self._steps = _MOST_STEPS
        try:
            for part in self._parts(module, arg.annotation):
                (types if isinstance(part, _TypeName) else notes).append(part)
        except (_Unreadable, *_WRONG_SOURCE):
            types, notes = [], []
        try:
            value = None if default is None else self.value(module, default)
            if value is None and default is not None:
                types.append(_TypeName("None"))  # also for `x: str = None`
        except (_Unreadable, *_WRONG_SOURCE):
            value = None
        return Argument(
            name=arg.arg,
            kind=arguments.kind_of(types) if types else "",
            rules=tuple(each for each in notes if isinstance(each, Rule) and _works(each)),
            meaning=next((each for each in notes if isinstance(each, str)), ""),
            default=value if _is_plain(value) else None,
            required=default is None,
            is_component=arguments.is_component(types),
        )

    def _parts(self, module: _Module, node: ast.expr | None) -> Iterator[Any]:
        """The names of the types in an annotation, and the other values in `Annotated`."""
        self._step()
        match node:
            case None:
                yield _TypeName()
            case ast.Constant(value=None):
                yield _TypeName("None")
            case ast.Constant(value=str(text)):
                yield from self._parts(module, ast.parse(text.strip(), mode="eval").body)
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                yield from self._parts(module, left)
                yield from self._parts(module, right)
            case ast.Subscript(value=made, slice=inside):
                parts = inside.elts if isinstance(inside, ast.Tuple) else [inside]
                match _last_name(made):
                    case "Annotated" if parts:
                        yield from self._parts(module, parts[0])
                        yield from self._values(module, parts[1:])
                    case "Optional" | "Union" as name:
                        for part in parts:
                            yield from self._parts(module, part)
                        if name == "Optional":
                            yield _TypeName("None")
                    case name:
                        yield _TypeName(name)
            case ast.Name(id=name) if name not in arguments.KIND_OF:
                source, found = self._look_up(module, name)
                if isinstance(found, ast.expr):
                    yield from self._parts(source, found)
                else:
                    yield _TypeName(name)
            case _:
                yield _TypeName(_last_name(node))

    def _values(self, module: _Module, nodes: Iterable[ast.expr]) -> Iterator[Any]:
        for node in nodes:
            try:
                yield self.value(module, node)
            except _Unreadable:
                continue  # an annotation may have values for other tools

    def value(self, module: _Module, node: ast.expr) -> Any:
        """The value of an expression. Raises _Unreadable."""
        self._step()
        match node:
            case ast.Constant(value=value):
                return value
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                number = self.value(module, operand)
                if isinstance(number, int | float):
                    return -number
            case ast.Tuple(elts=items):
                return tuple(self._items(module, items))
            case ast.List(elts=items):
                return self._items(module, items)
            case ast.Dict(keys=keys, values=values) if None not in keys:
                names, items = self._items(module, filter(None, keys)), self._items(module, values)
                try:
                    return dict(zip(names, items, strict=True))
                except TypeError as error:  # a list is no key
                    raise _Unreadable from error
            case ast.Name(id=name):
                source, found = self._look_up(module, name)
                if isinstance(found, ast.expr):
                    return self.value(source, found)
            case ast.Call(func=ast.Name(id=name), args=positional, keywords=keywords):
                _, found = self._look_up(module, name)
                if isinstance(found, type) and all(keyword.arg for keyword in keywords):
                    given = {str(keyword.arg): self.value(module, keyword.value) for keyword in keywords}
                    try:
                        return found(*self._items(module, positional), **given)
                    except TypeError as error:
                        raise _Unreadable from error
        raise _Unreadable

    def _items(self, module: _Module, nodes: Iterable[ast.expr]) -> list[Any]:
        return [self.value(module, node) for node in nodes]

    def _look_up(self, module: _Module, name: str) -> tuple[_Module, ast.expr | type | None]:
        """The module that defines a name, and its value there: an expression, one of _CONSTRUCTORS, or None."""
        for _ in range(_MOST_IMPORTS):
            if (module.name, name) in _CONSTRUCTORS:
                return module, _CONSTRUCTORS[module.name, name]
            if value := module.values.get(name):
                return module, value
            found = _imported(module, name)
            if found is None or not self._is_followed(module, found[0]):
                break
            try:
                source = _module_of(found[0], self._search)
            except _WRONG_SOURCE as error:
                raise _Unreadable from error
            if source is None:
                break
            module, name = source, found[1]
        return module, None

    def _is_followed(self, module: _Module, imported: str) -> bool:
        """Whether to follow an import: only to the job, fedsag or the same package. torch's source is slow to read."""
        top = imported.partition(".")[0]
        known = (module.name.partition(".")[0], __name__.partition(".")[0])
        return top in known or any(_source(folder, imported.split(".")) for folder in self._search)

    def _step(self) -> None:
        self._steps -= 1
        if self._steps < 0:
            raise _Unreadable


class _TypeName(str):
    """The name of a type; other texts in `Annotated` are plain str."""


def _last_name(node: ast.expr | None) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def _is_plain(value: Any) -> bool:
    """Whether JSON and HOCON have such values; a default of another type cannot be shown."""
    match value:
        case float():
            return math.isfinite(value)
        case list() | tuple():
            return all(map(_is_plain, value))
        case dict():
            return all(isinstance(key, str) for key in value) and all(map(_is_plain, value.values()))
    return isinstance(value, str | int | None)


def _works(rule: Rule) -> bool:
    """Whether a rule works: it may be written with values of a wrong type."""
    if isinstance(rule, Needs):
        return isinstance(rule.other, str)
    try:
        for given in (0, "", {"": 0}):
            rule.problem(given)
    except Exception:
        # a wrong value may lead to any error
        return False
    return True


def _assignments(body: Iterable[ast.stmt]) -> Iterator[tuple[str, ast.expr]]:
    """The names that are assigned in a body, with their values."""
    for node in body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                yield name, value
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                yield name, value


def _imported(module: _Module, name: str) -> tuple[str, str] | None:
    """The module from which `from … import …` imports a name, and the name in that module; else None."""
    for node in module.tree.body:
        if not isinstance(node, ast.ImportFrom):
            continue
        for alias in node.names:
            if (alias.asname or alias.name) == name:
                parts = module.name.split(".") if module.file.name == "__init__.py" else module.name.split(".")[:-1]
                above = parts[: len(parts) - node.level + 1] if node.level else []
                return ".".join([*above, *([node.module] if node.module else [])]), alias.name
    return None


def _bases(module: _Module, name: str) -> Iterator[str]:
    """The class paths of the bases of the class `name` of a module."""
    for node in module.tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            for base in node.bases:
                first, dot, rest = ast.unparse(base).partition(".")
                yield f"{_path_of(module, first)}{dot}{rest}"


def _path_of(module: _Module, name: str) -> str:
    """The path of the module or class that a name stands for in a module."""
    if found := _imported(module, name):
        return ".".join(found)
    for node in module.tree.body:
        for alias in node.names if isinstance(node, ast.Import) else ():
            if (alias.asname or alias.name.partition(".")[0]) == name:
                return alias.name if alias.asname else name
    return f"{module.name}.{name}"


def _module_of(name: str, search: Sequence[Path]) -> _Module | None:
    """The parsed module; None if it is not found.

    Raises SyntaxError, ValueError, RecursionError or MemoryError for a module that Python cannot read."""
    file = find_module(name, search)
    if file is None:
        return None
    stat = file.stat()
    return _Module(name, file, *_parsed(file, (stat.st_mtime_ns, stat.st_size)))


@functools.lru_cache(maxsize=64)
def _parsed(file: Path, _: tuple[int, int]) -> tuple[ast.Module, Mapping[str, ast.expr]]:
    tree = ast.parse(file.read_bytes(), filename=str(file))
    return tree, dict(_assignments(tree.body))


def _source(folder: Path, parts: Sequence[str]) -> Path | None:
    module = "/".join(parts)
    return next((file for end in (".py", "/__init__.py") if (file := folder / f"{module}{end}").is_file()), None)


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
    return names | set(_defined(tree))


def _defined(node: ast.AST) -> Iterator[str]:
    """The names of classes and functions in a body, also under `if`, `try` and `with`."""
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield inner.name
        elif isinstance(inner, ast.stmt | ast.ExceptHandler | ast.match_case):
            yield from _defined(inner)
