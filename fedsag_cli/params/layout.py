"""The layout of a tensor file, that of safetensors: eight bytes of header length, a JSON header, the data.

https://github.com/huggingface/safetensors. The header's metadata contains what safetensors has no field for: the order
of the keys, which keys are tied, and which values are numpy's, plain numbers, bytes or texts.
"""

from __future__ import annotations

import json
import os
import reprlib
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice, pairwise, takewhile
from math import prod
from typing import Any, Literal

import msgspec

from fedsag_cli.errors import TensorError

METADATA = "__metadata__"
RESERVED = "\0"
"""Names that begin with it are of trees (see `trees`), and no key of params."""

_ALIGNMENT = 64
_LARGEST_HEADER = 16 << 20  # bytes, for about 100,000 tensors; Python objects may take fifty times that
_LARGE = 1 << 20  # bytes of a piece that is written alone
_MOST_TOGETHER = 64  # of the other ones
_MOST_AXES = 64  # the limit of numpy and of torch

_short = reprlib.Repr()
_short.maxstring = 200
shown = _short.repr
"""repr(), but short: a name or a shape in a file may be as long as a header."""

SIZES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "C64": 8, "C128": 16, "BOOL": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1,
}  # fmt: skip
"""Bytes per element, by safetensors' name of the dtype."""


Kind = Literal["torch", "numpy", "scalar", "number", "bytes", "text"]


class Entry(msgspec.Struct, frozen=True):
    """One tensor of a file: safetensors' name of its dtype, its shape, and the first and last byte in the data."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class Extra(msgspec.Struct, frozen=True):
    """What safetensors has no field for. `kinds` has the values that are not torch tensors.

    "scalar" is a numpy scalar. "bytes" and "text" are rows of U8; a text is UTF-8."""

    order: list[str]
    ties: dict[str, str] = {}
    kinds: dict[str, Kind] = {}


@dataclass(frozen=True, slots=True)
class Flat:
    """One value to be written: its bytes, not copied. Values with the same `identity` are tied."""

    dtype: str
    shape: tuple[int, ...]
    kind: Kind
    identity: tuple[Any, ...]
    data: memoryview


def write(fd: int, flats: Mapping[str, Flat]) -> None:
    """Write header and data at the current position of `fd`. Raises OSError, TensorError."""
    first: dict[tuple[Any, ...], str] = {}
    ties = {name: first[flat.identity] for name, flat in flats.items() if first.setdefault(flat.identity, name) != name}
    written = [name for name in flats if name not in ties]
    written.sort(key=lambda name: -SIZES[flats[name].dtype])  # wide elements first, so that every tensor is aligned
    extra = Extra(
        order=list(flats),
        ties=ties,
        kinds={name: flat.kind for name, flat in flats.items() if flat.kind != "torch"},
    )
    header: dict[str, Any] = {METADATA: {"fedsag": msgspec.json.encode(extra).decode()}}
    offset = 0
    for name in written:
        end = offset + len(flats[name].data)
        header[name] = {"dtype": flats[name].dtype, "shape": flats[name].shape, "data_offsets": (offset, end)}
        offset = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)
    if len(text) > _LARGEST_HEADER:
        raise TensorError(
            f"params: the names of {len(flats)} values take {len(text)} bytes, too many for a tensor file"
        )
    head = memoryview(len(text).to_bytes(8, "little") + text)
    _write_all(fd, [head, *(flats[name].data for name in written)])


def _write_all(fd: int, pieces: Iterable[memoryview]) -> None:
    """Small pieces are written many at a time."""
    left = deque(piece for piece in pieces if len(piece))
    while left:
        together = list(takewhile(_is_small, islice(left, _MOST_TOGETHER)))
        size = os.writev(fd, together) if together else os.write(fd, left[0][: 1 << 30])
        while left and size >= len(left[0]):
            size -= len(left.popleft())
        if size:
            left[0] = left[0][size:]


def _is_small(piece: memoryview) -> bool:
    return len(piece) < _LARGE


def read_header(fd: int, size: int) -> tuple[dict[str, Entry], Extra, int]:
    """The entries and the extra of a file of `size` bytes, and the offset of its data. Raises TensorError."""
    length = int.from_bytes(os.pread(fd, 8, 0), "little")
    if not 2 <= length <= min(size - 8, _LARGEST_HEADER):
        raise TensorError(f"not a tensor file: a header of {length} bytes in a file of {size}")
    start = 8 + length
    try:
        fields = msgspec.json.decode(os.pread(fd, length, 8), type=dict[str, msgspec.Raw])
        about = msgspec.json.decode(fields.pop(METADATA, b"{}"), type=dict[str, str])
        entries = {name: msgspec.json.decode(raw, type=Entry) for name, raw in fields.items()}
        extra = msgspec.json.decode(about["fedsag"], type=Extra) if "fedsag" in about else Extra(order=list(entries))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TensorError(f"not a tensor file: {str(error)[:200]}") from None
    for name, entry in entries.items():
        _check(name, entry, size - start)
    if any(first[1] > then[0] for first, then in pairwise(sorted(entry.data_offsets for entry in entries.values()))):
        raise TensorError("not a tensor file: its tensors overlap")
    if sorted(extra.order) != sorted([*entries, *extra.ties]) or not entries.keys() >= set(extra.ties.values()):
        raise TensorError("not a tensor file: its keys and its tensors do not agree")
    return entries, extra, start


def _check(name: str, entry: Entry, size: int) -> None:
    first, last = entry.data_offsets
    if entry.dtype not in SIZES:
        raise TensorError(f"not a tensor file: {shown(name)} has the unknown dtype {shown(entry.dtype)}")
    if len(entry.shape) > _MOST_AXES:
        raise TensorError(f"not a tensor file: {shown(name)} has {len(entry.shape)} axes")
    if min(entry.shape, default=0) < 0 or not 0 <= first <= last <= size:
        raise TensorError(f"not a tensor file: {shown(name)} is outside the file")
    if last - first != prod(entry.shape) * SIZES[entry.dtype]:
        raise TensorError(
            f"not a tensor file: {shown(name)} of shape {shown(list(entry.shape))} does not take {last - first} bytes"
        )
