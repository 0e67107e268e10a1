"""Parts of a job by the names of NVFLARE's classes, and how objects of a job script are written into a config file."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from fedsag_cli.errors import UsageError

NVFLARE_FLAG = "`fedsag run --with nvflare SCRIPT` makes the job with NVFLARE's own, if that is installed"

Class = dict[str, Any]
"""An object as a config file has it: `path`, the path of its class, and `args`."""


class Part:
    """An object of a class of NVFLARE: a job has its class path and the arguments, and nothing is built here.

    A class of the script's own may derive from it.
    """

    nvflare_path = ""

    def __init__(self, *args: Any, **named: Any) -> None:
        if args:
            raise UsageError(
                f"{self.nvflare_path.rpartition('.')[2]}: arguments must be given by name", hint=NVFLARE_FLAG
            )
        self.given: dict[str, Any] = named


def part_class(path: str) -> type[Part]:
    """The class that stands for the class of NVFLARE with this path."""
    module, _, name = path.rpartition(".")
    return type(name, (Part,), {"nvflare_path": path, "__module__": module})


def made(path: str, **args: Any) -> Part:
    """An object of the class of NVFLARE with this path; arguments that are None are left out."""
    return part_class(path)(**{name: value for name, value in args.items() if value is not None})


class Model:
    """A model inside the arguments of a part: an object, or a dict with its `class_path` (or `path`) and its `args`."""

    def __init__(self, of: Any) -> None:
        """Raises UsageError if it is neither."""
        if isinstance(of, Mapping):
            path = of.get("class_path") or of.get("path")
            unknown = set(of) - {"class_path", "path", "args"}
            if not isinstance(path, str) or unknown or not isinstance(of.get("args", {}), Mapping):
                raise UsageError(
                    "model: a dict must have class_path, and perhaps args",
                    hint='example: {"class_path": "model.Net", "args": {"hidden": 16}}',
                )
        elif type(of).__module__ == "builtins":  # a number, a text, a list, a function or a class
            raise UsageError(
                f"model: {of!r} is no model of torch",
                hint='give an object, such as Net(), or a dict, such as {"class_path": "model.Net", "args": {}}',
            )
        self.of = of


Uses = Callable[[str, Path], None]
"""Is told the module and the file of each class of the user's own that is written."""


def written(value: Any, uses: Uses, where: str) -> Any:
    """The value as a config file has it. Raises UsageError naming `where`."""
    match value:
        case Enum():
            return written(value.value, uses, where)
        case float() if not math.isfinite(value):
            raise UsageError(f"{where}: {value!r} cannot be in a job, whose files are JSON")
        case None | bool() | int() | float() | str():
            return value
        case Mapping():
            return {str(key): written(inner, uses, f"{where}.{key}") for key, inner in value.items()}
        case list() | tuple():
            return [written(inner, uses, where) for inner in value]
        case set() | frozenset():
            return [written(inner, uses, where) for inner in sorted(value)]
    if hasattr(value, "tolist"):  # an array, or a number of numpy
        return written(value.tolist(), uses, where)
    return class_of(value, uses, where)


def class_of(value: Any, uses: Uses, where: str = "") -> Class:
    """The object as a config file has it: its class path, and the arguments with which it was made."""
    if isinstance(value, Model):
        return _model_of(value.of, uses)
    where = where or type(value).__name__
    if type(value).__module__ == "builtins":
        raise UsageError(f"{where}: {value!r} cannot be in a job: give an object of a class, or its class path")
    if type(value).__dict__.get("nvflare_path"):
        return {"path": value.nvflare_path, "args": written(value.given, uses, where)}
    args = {name: written(inner, uses, f"{where}.{name}") for name, inner in _arguments(value).items()}
    return {"path": f"{_module_in_job(type(value).__module__, uses)}.{type(value).__qualname__}", "args": args}


def _model_of(model: Any, uses: Uses) -> Class:
    if not isinstance(model, Mapping):
        return class_of(model, uses, "model")
    path = model.get("class_path") or model["path"]
    _module_in_job(path.rpartition(".")[0], uses)
    return {"path": path, "args": written(model.get("args", {}), uses, "model")}


def _arguments(value: Any) -> dict[str, Any]:
    """The arguments that differ from their defaults: what the object has as an attribute of that name, or _NAME."""
    known = vars(value) if hasattr(value, "__dict__") else {}
    given: dict[str, Any] = dict(known.get("given", {})) if isinstance(value, Part) else {}
    for name, parameter in _parameters(type(value)).items():
        key = name if name in known else f"_{name}"
        inner = known.get(key, _modules(value).get(name, _MISSING))
        if inner is not _MISSING and not _same(inner, parameter.default):
            given[name] = inner
    return given


_MISSING = object()


def _modules(value: Any) -> Mapping[str, Any]:
    """What torch keeps apart from the attributes of a module: arguments that are modules themselves."""
    inner = getattr(value, "__dict__", {}).get("_modules")
    return inner if isinstance(inner, Mapping) else {}


def _parameters(kind: type) -> dict[str, inspect.Parameter]:
    """The named parameters of the constructor; with **kwargs, those of the base classes too."""
    found: dict[str, inspect.Parameter] = {}
    for each in kind.__mro__[:-1]:
        if "__init__" not in vars(each) or each is Part:
            continue
        parameters = list(inspect.signature(vars(each)["__init__"]).parameters.values())[1:]
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        for parameter in parameters:
            if parameter.kind in named:
                found.setdefault(parameter.name, parameter)
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found


def _same(value: Any, default: Any) -> bool:
    try:
        return value is default or (type(value) is type(default) and bool(value == default))
    except (ValueError, RuntimeError):  # arrays have no single truth
        return False


def _module_in_job(module: str, uses: Uses) -> str:
    """The name of a module in the job, where a file of the user's own goes along; the script has that of its file."""
    file = _file_of(module)
    if file is None:
        return module
    name = file.stem if module == "__main__" else module
    uses(name, file)
    return name


def _file_of(module: str) -> Path | None:
    """The file of a module of the user's own; None of one that is installed, or of one that cannot be found."""
    source = getattr(sys.modules.get(module), "__file__", None)
    if source is None:
        candidates: Sequence[Path] = [Path(folder or ".", *module.split(".")) for folder in sys.path]
        source = next((str(each) + ".py" for each in candidates if Path(str(each) + ".py").is_file()), None)
    if source is None:
        return None
    path = Path(source).resolve()
    installed = {"site-packages", "dist-packages"} & set(path.parts) or path.is_relative_to(
        Path(inspect.__file__).parent
    )
    return None if installed or module.partition(".")[0] in ("nvflare", "fedsag_cli") else path
