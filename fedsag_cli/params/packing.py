"""An FLModel as it is sent, and back: its facts in a message, its tensors in a tensor file.

What `meta` has is a fact if JSON has it too. A value with tensors in it, however deep, is a part of the tree "meta" of
the file, and None holds its place among the facts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fedsag_cli.errors import TensorError
from fedsag_cli.model import FLModel
from fedsag_cli.params.encoding import is_torch
from fedsag_cli.params.tensor_file import TensorFile
from fedsag_cli.wire.messages import ModelFacts

_META = "meta"


def packed(model: FLModel, *, scratch: str | Path | None = None) -> tuple[ModelFacts, TensorFile | None]:
    """The facts of `model`, and the file with its tensors, which the caller closes; None if it has none.

    `scratch`: as in `TensorFile.write`. Raises OSError, and TensorError naming a key that cannot be sent.
    """
    facts, tree = _split(model.meta)
    trees = {_META: tree} if tree else {}
    file = None
    if model.params is not None or tree:
        file = TensorFile.write(model.params or {}, trees=trees, scratch=scratch)
    return ModelFacts.of(replace(model, meta=facts)), file


def unpacked(facts: ModelFacts, file: TensorFile | None) -> FLModel:
    """The model of which these are the facts and the file. Raises TensorError if the file is damaged."""
    has_params = file is not None and (facts.params_type is not None or file.entries)
    model = facts.with_params(file.load() if file is not None and has_params else None)
    if file is not None and _META in file.trees:
        tree = file.tree(_META)
        if not isinstance(tree, dict) or not all(isinstance(name, str) for name in tree):
            raise TensorError("not a tensor file: its meta is no dict")
        model.meta |= tree
    return model


def _split(meta: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What of `meta` is sent as facts, and the rest, which has tensors."""
    facts: dict[str, Any] = {}
    tree: dict[str, Any] = {}
    for name, value in meta.items():
        try:
            facts[name] = msgspec.to_builtins(value, enc_hook=_number, builtin_types=(bytes, bytearray, memoryview))
            msgspec.msgpack.encode({name: facts[name]})
        except _HasTensor:
            facts[name], tree[name] = None, value
        except OverflowError:
            raise TensorError(
                f"meta: {name!r} has a whole number of more than 64 bits, which cannot be sent",
                hint="send it as a text or as a float",
            ) from None
        except (TypeError, ValueError, RuntimeError):  # RuntimeError: of an array of another library, for many numbers
            raise TensorError(f"meta: {name!r} is a {type(value).__name__}, which cannot be sent") from None
        if not isinstance(name, str):
            raise TensorError(f"meta: the key {name!r} must be a str, not a {type(name).__name__}")
    return facts, tree


class _HasTensor(Exception):
    """This is no fact."""


def _number(value: Any) -> Any:
    """The Python number in a scalar of numpy or of another library."""
    if is_torch(value) or isinstance(value, np.ndarray):
        raise _HasTensor
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(type(value).__name__)
