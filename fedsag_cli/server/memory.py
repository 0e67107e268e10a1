"""What components of the job's own code keep from round to round: no checkpoint has it, a resumed run would lose it."""

from __future__ import annotations

import hashlib
import io
import pickle
import sys
from collections.abc import Iterator, Mapping, Set
from types import ModuleType
from typing import Any

import numpy as np
from msgspec import Struct

from fedsag_cli.facts import Facts
from fedsag_cli.model import FLModel
from fedsag_cli.params.encoding import is_torch

_OURS = __name__.partition(".")[0] + "."
_VALUES = (FLModel, Struct)  # of ours, these may be kept
_LARGE = 1 << 16  # bytes of an array; of a larger one a sample is looked at
_SAMPLES = 1024


class Memory:
    """Compares what components, their classes and their modules have with what they began with."""

    def __init__(self, components: Mapping[str, object]) -> None:
        """`components`: by what the user calls them. Those of fedsag, and those that say so, keep nothing."""
        self._places = dict(_places({name: part for name, part in components.items() if not _keeps_nothing(part)}))
        self._components = {id(part) for part in components.values()}
        self._before = self._marks()
        self._changed: dict[str, None] = {}

    def changed(self) -> list[str]:
        """What has changed since the beginning, such as "aggregator (mom.Momentum): v"."""
        for place, mark in self._marks().items():
            if mark != self._before.get(place):
                self._changed[": ".join(place)] = None
        return list(self._changed)

    def _marks(self) -> dict[tuple[str, str], Any]:
        return {
            (place, name): self._mark(value)
            for place, holder in self._places.items()
            for name, value in list(_attributes(holder).items())
        }

    def _mark(self, value: object) -> Any:
        """Something that is equal as long as the value is the same."""
        hasher = _Hasher(self._components)
        try:
            hasher.dump(value)
        except Exception:
            # what cannot be pickled, such as a lock or a file; an object may raise anything
            return id(value)
        return hasher.digest()


def _places(components: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for name, part in components.items():
        module = type(part).__module__
        yield f"{name} ({module}.{type(part).__qualname__})", part
        if module in sys.modules:
            yield f"the module {module}", sys.modules[module]
        for kind in type(part).__mro__:
            if not f"{kind.__module__}.".startswith(_OURS) and kind is not object:
                yield f"the class {kind.__module__}.{kind.__qualname__}", kind


def _attributes(holder: object) -> dict[str, Any]:
    if isinstance(holder, ModuleType | type):
        return {name: value for name, value in vars(holder).items() if not name.startswith("__") and _is_data(value)}
    slots = [name for kind in type(holder).__mro__ for name in getattr(kind, "__slots__", ())]
    return {name: getattr(holder, name) for name in slots if hasattr(holder, name)} | getattr(holder, "__dict__", {})


def _keeps_nothing(part: object) -> bool:
    facts = getattr(part, "facts", None)
    return _is_ours(part) or (isinstance(facts, Facts) and facts.keeps_nothing)


def _is_ours(value: object) -> bool:
    return type(value).__module__.startswith(_OURS) and not isinstance(value, _VALUES)


def _is_data(value: object) -> bool:
    return not isinstance(value, type | ModuleType) and not callable(value)


class _Hasher(pickle.Pickler):
    """Equal values give equal digests. What components have is theirs: a digest does not look into them."""

    def __init__(self, components: Set[int]) -> None:
        self._file, self._components = io.BytesIO(), components
        super().__init__(self._file, protocol=5)
        self.fast = True  # otherwise it would matter which of several equal values are one object

    def digest(self) -> bytes:
        return hashlib.sha256(self._file.getbuffer()).digest()

    def persistent_id(self, value: Any) -> Any:
        if is_torch(value):
            sample = value.detach().reshape(-1)[:: max(1, value.numel() // _SAMPLES)]
            return ("torch", str(value.dtype), tuple(value.shape), sample.tolist())
        if isinstance(value, np.ndarray) and value.nbytes > _LARGE and value.dtype != object:
            return (
                "numpy",
                value.dtype.str,
                value.shape,
                value.reshape(-1)[:: max(1, value.size // _SAMPLES)].tobytes(),
            )
        if isinstance(value, ModuleType) or (callable(value) and hasattr(value, "__qualname__")):
            return (value.__name__,)
        if id(value) in self._components or _is_ours(value):
            return (type(value).__qualname__,)
        return None
