"""Loads a received model into a module. If it does not fit, the error names the keys and the likely reason."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from fedsag_cli.errors import ClientError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

_SHOWN = 3


def load(module: Module, params: Mapping[str, Any], *, strict: bool) -> None:
    """Copy `params` into `module`. Raises ClientError if they do not fit.

    Without `strict`, keys that only one of them has are left out; at least one key must be common.
    """
    received = _tensors(params)
    if not strict and module.state_dict().keys().isdisjoint(received):
        raise _misfit(type(module).__name__, module.state_dict(), received)
    try:
        module.load_state_dict(received, strict=strict)
    except RuntimeError as error:
        raise _misfit(type(module).__name__, module.state_dict(), received, str(error)) from None


def fitting(name: str, own: Mapping[str, Tensor], params: Mapping[str, Any], *, strict: bool) -> dict[str, Tensor]:
    """The received `params` as tensors, for what takes any: a part of a model, called `name`, whose params are `own`.

    Without `strict`, only those of common keys. Raises ClientError if they do not fit.
    """
    received = _tensors(params)
    common = own.keys() & received.keys()
    misses = own.keys() != received.keys() if strict else not common
    if misses or any(own[key].shape != received[key].shape for key in common):
        raise _misfit(name, own, received)
    return {key: value for key, value in received.items() if key in common}


def _tensors(params: Mapping[str, Any]) -> dict[str, Tensor]:
    import torch

    return {name: torch.as_tensor(value) for name, value in params.items()}


def _misfit(name: str, own: Mapping[str, Tensor], received: Mapping[str, Tensor], message: str = "") -> ClientError:
    missing = [key for key in own if key not in received]
    unexpected = [key for key in received if key not in own]
    reshaped = [
        f"{key!r} has shape {list(value.shape)} in it and {list(own[key].shape)} in {name}"
        for key, value in received.items()
        if key in own and value.shape != own[key].shape
    ]
    facts = [
        f"it has no {_listed(map(repr, missing))}" if missing else "",
        f"it has {_listed(map(repr, unexpected))}, which {name} does not have" if unexpected else "",
        _listed(reshaped),
    ]
    why = "; ".join(filter(None, facts)) or message
    return ClientError(f"the received model does not fit {name}: {why}", hint=_hint(name, missing, unexpected))


def _hint(name: str, missing: list[str], unexpected: list[str]) -> str:
    if prefix := _prefix(missing, unexpected):
        return f"in {name} the names begin with {prefix!r}: set the job's model_class_path to {name}"
    if prefix := _prefix(unexpected, missing):
        return f"in the received model the names begin with {prefix!r}: set the job's model_class_path to {name}"
    for key in missing:
        if near := difflib.get_close_matches(key, unexpected, n=1):
            return f"is {near[0]!r} of the received model the same as {key!r} of {name}?"
    return "the job's model_class_path and the script must use the same class"


def _prefix(longer: list[str], shorter: list[str]) -> str:
    """The prefix of every key in `longer` if `shorter` has the same keys without it; else empty."""
    if not longer or not shorter or not longer[0].endswith(shorter[0]):
        return ""
    prefix = longer[0].removesuffix(shorter[0])
    return prefix if longer == [prefix + key for key in shorter] else ""


def _listed(texts: Iterable[str]) -> str:
    given = list(texts)
    more = len(given) - _SHOWN
    return ", ".join(given[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
