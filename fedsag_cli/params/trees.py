"""Trees of values, taken apart for a tensor file: a skeleton in msgpack, and the leaves that lie beside it.

Trees come back bit by bit, but tuples come back as lists, and every kind of dict as a dict. Nothing is pickled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec
import numpy as np

from fedsag_cli.errors import TensorError
from fedsag_cli.model import Tree
from fedsag_cli.params.encoding import flat, is_torch, utf8
from fedsag_cli.params.layout import Flat, shown

_DEEPEST = 100  # levels
_LONGEST = 1 << 10  # bytes of a text that stays in the skeleton
_LARGEST = 16 << 20  # bytes of a skeleton; Python objects may take fifty times that
_LEAF, _LARGE_INTEGER = 1, 2  # msgpack's extensions: the number of a leaf, an integer of more than 64 bits

_Path: TypeAlias = "tuple[_Path, Any] | str"  # where a value is: (where its dict or list is, its key or index)


def taken_apart(tree: Tree, what: str) -> tuple[bytes, list[Flat]]:
    """The skeleton of a tree, and its leaves. `what`: how messages call the tree.

    Raises TensorError naming what cannot be kept by its path, such as "meta['a'][2]".
    """
    leaves: list[Flat] = []
    skeleton = msgspec.msgpack.encode(_bare(tree, what, leaves, 0))
    if len(skeleton) > _LARGEST:
        raise TensorError(f"{what} takes {len(skeleton)} bytes without its tensors; at most {_LARGEST} can be kept")
    return skeleton, leaves


def put_together(skeleton: bytes, leaf: Callable[[int], Any]) -> Tree:
    """The reverse of `taken_apart`. `leaf` gives each leaf by its number. Raises TensorError if this is no skeleton."""
    if len(skeleton) > _LARGEST:
        raise TensorError(f"not a tensor file: a tree of {len(skeleton)} bytes")
    try:
        bare = msgspec.msgpack.decode(skeleton)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        # not only msgspec's own: a text that is not UTF-8, a key that cannot be hashed, a time that there is not
        raise TensorError(f"not a tensor file: a tree that cannot be read: {str(error)[:200]}") from None
    return _whole(bare, leaf, 0)


def _bare(value: Any, path: _Path, leaves: list[Flat], depth: int) -> Any:
    """`value` as msgpack has it, with a number for each leaf."""
    kind = type(value)
    if value is None or kind is bool or kind is float:
        return value
    if kind is int:
        return value if _fits(value) else msgspec.msgpack.Ext(_LARGE_INTEGER, _integer_bytes(value))
    if kind is str or kind is bytes:
        size = len(value) if kind is bytes else len(utf8(_told(path), value))
        return value if size <= _LONGEST else _leaf(value, path, leaves)
    if is_torch(value) or isinstance(value, np.ndarray | np.generic):
        return _leaf(value, path, leaves)
    if depth == _DEEPEST:
        raise TensorError(f"{_told(path)[:200]}… has more than {_DEEPEST} levels")
    if isinstance(value, dict):
        return {_key(key, path): _bare(inner, (path, key), leaves, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_bare(inner, (path, index), leaves, depth + 1) for index, inner in enumerate(value)]
    raise TensorError(
        f"{_told(path)} is a {kind.__name__}, which cannot be kept or sent",
        hint="it can have dicts, lists, tensors, arrays, numbers, texts, bytes, bools and None",
    )


def _told(path: _Path) -> str:
    keys: list[str] = []
    while not isinstance(path, str):
        path, key = path
        keys.append(f"[{shown(key)}]")
    return path + "".join(reversed(keys))


def _leaf(value: Any, path: _Path, leaves: list[Flat]) -> msgspec.msgpack.Ext:
    leaves.append(flat(_told(path), value))
    return msgspec.msgpack.Ext(_LEAF, (len(leaves) - 1).to_bytes(4, "little"))


def _key(key: Any, path: _Path) -> str | int:
    if type(key) is int and _fits(key):
        return key
    if not isinstance(key, str):
        raise TensorError(f"{_told(path)} has the key {shown(key)}, which is a {type(key).__name__}, not a text")
    return utf8(f"a key of {_told(path)}", key).decode()


def _whole(value: Any, leaf: Callable[[int], Any], depth: int) -> Tree:
    kind = type(value)
    if value is None or kind in (bool, int, float, str, bytes):
        return value
    if kind is msgspec.msgpack.Ext and value.code == _LEAF and len(value.data) == 4:
        return leaf(int.from_bytes(value.data, "little"))
    if kind is msgspec.msgpack.Ext and value.code == _LARGE_INTEGER:
        return int.from_bytes(value.data, "little", signed=True)
    if depth == _DEEPEST:
        raise TensorError(f"not a tensor file: a tree of more than {_DEEPEST} levels")
    if kind is dict and all(type(key) in (str, int) for key in value):
        return {key: _whole(inner, leaf, depth + 1) for key, inner in value.items()}
    if kind is list:
        return [_whole(inner, leaf, depth + 1) for inner in value]
    raise TensorError(f"not a tensor file: a tree with {shown(value)}")


def _fits(value: int) -> bool:
    """Whether msgpack has room for it."""
    return -(1 << 63) <= value < 1 << 64


def _integer_bytes(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
