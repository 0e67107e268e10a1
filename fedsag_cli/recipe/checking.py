"""Checks what a script gives to a recipe, a job or an environment, before anything is made of it."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fedsag_cli.arguments import Least, OneOf, declared, problems
from fedsag_cli.errors import UsageError, nearest
from fedsag_cli.recipe.lacking import lacking
from fedsag_cli.recipe.settings import ExchangeFormat, FrameworkType, TransferType

Count = Annotated[int, Least(1)]
Framework = Annotated[FrameworkType, OneOf(tuple(each.value for each in FrameworkType))]
Expected = Annotated[str, OneOf(tuple(each.value for each in ExchangeFormat))]
Transfer = Annotated[str, OneOf(tuple(each.value for each in TransferType))]
Mode = Annotated[str, OneOf(("min", "max"))]

NO_EFFECT = (
    "server_memory_gc_rounds", "client_memory_gc_rounds", "memory_gc_rounds", "cuda_empty_cache",
    "enable_tensor_disk_offload", "launch_timeout", "shutdown_timeout", "task_assignment_timeout", "model_locator",
    "aggregator_data_kind", "round_timeout", "start_task_timeout", "progress_timeout", "max_status_report_interval",
    "learn_task_timeout", "max_concurrent_submissions", "learn_task_abort_timeout", "learn_task_ack_timeout",
    "final_result_ack_timeout", "aggregation_format",
)  # fmt: skip
"""Arguments that only save memory or time in NVFLARE."""
_LACKS = ("save_filename", "server_config_overrides", "client_config_overrides")
_OLDER_NAMES = {"initial_model": "model", "initial_params": "model_params"}  # those of NVFLARE 2.7.0

Function = TypeVar("Function", bound=Callable[..., Any])


def checked(function: Function) -> Function:
    """Decorate a method: an argument that is missing, unknown or of a wrong type is an error that names it.

    Types and rules are those of the annotations. A method with `**other` also takes what its base classes take,
    arguments by their older names, and those of NO_EFFECT. Raises UsageError.
    """
    signature = inspect.signature(function)
    is_open = any(each.kind is each.VAR_KEYWORD for each in signature.parameters.values())

    @functools.wraps(function)
    def wrapped(self: Any, *args: Any, **named: Any) -> Any:
        kind = type(self)
        name = kind.__name__ if function.__name__ == "__init__" else f"{kind.__name__}.{function.__name__}"
        of = next(each for each in kind.__mro__ if vars(each).get(function.__name__) is wrapped)
        known = _names(of.__mro__ if is_open else [of], function.__name__)
        for older, newer in _OLDER_NAMES.items():
            if is_open and newer in known and older in named and named.get(newer) is None:
                named[newer] = named.pop(older)
        for key in [each for each in named if each not in known]:
            if key in _LACKS and is_open and named[key] is not None:
                raise lacking(f"{key} of {name}")
            if not is_open or key not in (*NO_EFFECT, *_LACKS):
                raise lacking(f"argument {key!r} of {name}", hint=nearest(key, known))
        try:
            given = signature.bind(self, *args, **named).arguments
        except TypeError as error:  # one is missing, or there are too many
            raise UsageError(f"{name}: {error}") from None
        for key, problem in problems(declared(function), given).items():
            raise UsageError(f"{name}: {key} {problem}")
        return function(self, *args, **named)

    return wrapped  # type: ignore[return-value]


def path_of(given: str | os.PathLike[str], name: str) -> Path:
    """The path that was given as the argument `name`. Raises UsageError if it is none."""
    if not isinstance(given, str | os.PathLike) or not given:
        raise UsageError(f"{name} must be a path, not {given!r}")
    return Path(given).expanduser()


def _names(kinds: Sequence[type], function: str) -> set[str]:
    """The arguments of this method of each of these classes, where it is checked."""
    functions = [vars(each)[function] for each in kinds if hasattr(vars(each).get(function), "__wrapped__")]
    parameters = [each for one in functions for each in list(inspect.signature(one).parameters.values())[1:]]
    return {each.name for each in parameters if each.kind is not each.VAR_KEYWORD}
