"""Converts one value of params to bytes and back: a torch tensor, a numpy array or scalar, a number, bytes or a text.

torch is imported only for a torch tensor: a numpy job never imports it.
"""

from __future__ import annotations

import functools
import mmap
import sys
from math import prod
from typing import Any

import numpy as np

from fedsag_cli.errors import TensorError
from fedsag_cli.params.layout import METADATA, RESERVED, SIZES, Entry, Flat, Kind, shown

_NUMPY = {
    "F64": "float64", "F32": "float32", "F16": "float16", "C64": "complex64", "C128": "complex128", "BOOL": "bool",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
}  # fmt: skip
_TORCH = _NUMPY | {"BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
_WORD_OF_NUMPY = {name: word for word, name in _NUMPY.items()}
_WORD_OF_TORCH = {f"torch.{name}": word for word, name in _TORCH.items()}
_DTYPE_OF_NUMBER: dict[type, type] = {bool: np.bool_, int: np.int64, float: np.float64}
_NUMBERS = {"BOOL", "I64", "F64"}


def is_torch(value: object) -> bool:
    """Whether `value` is a torch tensor. Does not import torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_payload(value: object) -> bool:
    """Whether it is bytes or a text, with which nothing can be calculated."""
    return type(value) in (bytes, str)


def is_numeric(value: object) -> bool:
    """Whether `flattened` takes it, and it can be calculated with."""
    if is_torch(value):
        return not _fault_of_torch(value)
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.newbyteorder("=").name in _WORD_OF_NUMPY
    return type(value) in _DTYPE_OF_NUMBER and not (isinstance(value, int) and not -(1 << 63) <= value < 1 << 63)


def check_key(name: Any) -> str:
    """`name`. Raises TensorError if it cannot be a key."""
    if not isinstance(name, str):
        raise TensorError(f"params: the key {name!r} must be a str, not a {type(name).__name__}")
    if name.startswith(RESERVED):
        raise TensorError(f"params: {name!r} cannot be a key: such names are reserved")
    if name == METADATA or name != name.encode(errors="replace").decode():
        raise TensorError(f"params: {name!r} cannot be a key: safetensors does not allow it")
    return name


def flattened(name: str, value: Any) -> Flat:
    """The bytes of `value`, copied only if necessary. Raises TensorError naming a key that cannot be sent."""
    return flat(f"params: {check_key(name)!r}", value)


def flat(what: str, value: Any) -> Flat:
    """As `flattened`, for a value that messages call `what`, such as "meta['a'][2]"."""
    if is_torch(value):
        return _of_torch(what, value)
    if isinstance(value, np.ndarray | np.generic):
        return _of_numpy(what, value, "numpy" if isinstance(value, np.ndarray) else "scalar")
    if type(value) is bytes:
        return Flat("U8", (len(value),), "bytes", (id(value), what), memoryview(value))
    if type(value) is str:
        text = memoryview(utf8(what, value))
        return Flat("U8", (len(text),), "text", (id(value), what), text)
    if type(value) in _DTYPE_OF_NUMBER:
        try:
            return _of_numpy(what, np.asarray(value, dtype=_DTYPE_OF_NUMBER[type(value)]), "number")
        except OverflowError:
            raise TensorError(f"{what} is an integer of more than 64 bits") from None
    raise TensorError(
        f"{what} is a {type(value).__name__}",
        hint="params are torch tensors, numpy arrays, numbers, bytes or texts; put other values into meta",
    )


def utf8(what: str, text: str) -> bytes:
    """`text` as bytes. Raises TensorError if UTF-8 has none for it."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise TensorError(f"{what} is a text that UTF-8 cannot encode: {text[:100]!r}") from None


def _of_torch(what: str, value: Any) -> Flat:
    import torch

    if (word := _plain_word(value)) is not None:
        shape, value = tuple(value.shape), value.detach() if value.requires_grad else value
        identity: tuple[Any, ...] = ("torch", word, value.data_ptr(), shape, value.stride(), False, False)
        array = value.numpy() if word in _NUMPY else value.view(-1).view(torch.uint8).numpy()
        return Flat(word, shape, "torch", identity, array.reshape(-1).view(np.uint8).data)
    if fault := _fault_of_torch(value):
        raise TensorError(f"{what} is {fault}", hint="send a dense tensor of a usual dtype, e.g. tensor.to_dense()")
    word = _WORD_OF_TORCH[str(value.dtype)]
    with torch.no_grad():
        view = (value.data_ptr(), value.shape, value.stride(), value.is_conj(), value.is_neg())
        identity = ("torch", word, *view) if value.numel() else (id(value),)
        dense = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
        row = dense.as_strided((dense.numel(),), (1,))  # torch calls one element contiguous for any stride
        data = row.view(torch.uint8).numpy() if dense.numel() else np.empty(0, np.uint8)
    return Flat(word, tuple(value.shape), "torch", identity, data.data)


def _plain_word(value: Any) -> str | None:
    """The word of a usual tensor: dense, contiguous, in the memory of the CPU. None for any other one."""
    import torch

    is_plain = (
        type(value) in (torch.Tensor, torch.nn.Parameter)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_nested
        and value.is_contiguous()
        and value.numel() > 1  # one element is called contiguous for any stride
        and not (value.is_conj() or value.is_neg())
    )
    return _word_of_torch(value.dtype) if is_plain else None


@functools.cache
def _word_of_torch(dtype: Any) -> str | None:
    return _WORD_OF_TORCH.get(str(dtype))


def _fault_of_torch(value: Any) -> str:
    """What keeps a torch tensor from being sent; empty if it can be."""
    import torch

    if torch.nn.parameter.is_lazy(value):
        return "a torch tensor without a shape: its lazy module has not been called yet"
    is_usual = str(value.dtype) in _WORD_OF_TORCH and value.layout is torch.strided and value.device.type != "meta"
    if not is_usual or value.is_nested:
        nested = ", nested" if value.is_nested else ""
        return f"a torch tensor of dtype {value.dtype}, layout {value.layout}, device {value.device}{nested}"
    return ""


def _of_numpy(what: str, value: Any, kind: Kind) -> Flat:
    array = np.asarray(value)
    word = _WORD_OF_NUMPY.get(array.dtype.newbyteorder("=").name)
    if word is None:
        raise TensorError(f"{what} is a numpy array of dtype {array.dtype}", hint="send numbers or booleans")
    address = array.__array_interface__["data"][0]
    view = (address, array.shape, array.strides)
    identity = (kind, array.dtype.str, *view) if kind == "numpy" and array.size else (id(value), what)
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    data = native.reshape(-1).view(np.uint8) if native.size else np.empty(0, np.uint8)
    return Flat(word, array.shape, kind, identity, data.data)


def viewed(name: str, memory: mmap.mmap, start: int, entry: Entry, kind: Kind) -> Any:
    """The value in the bytes of `memory`, which stays open as long as the value exists.

    Raises TensorError if the bytes do not contain such a value."""
    if kind != "torch" and entry.dtype not in _NUMPY:
        raise TensorError(f"not a tensor file: numpy has no dtype {entry.dtype}")
    if kind == "number" and entry.dtype not in _NUMBERS:
        raise TensorError(f"not a tensor file: {shown(name)} is a number of dtype {entry.dtype}")
    if kind in ("bytes", "text"):
        return _payload(name, memory[start + entry.data_offsets[0] : start + entry.data_offsets[1]], entry, kind)
    source: mmap.mmap | bytearray = memory
    offset = start + entry.data_offsets[0]
    if offset % SIZES[entry.dtype]:  # torch and numpy may crash on data that is not aligned
        source, offset = bytearray(memory[offset : start + entry.data_offsets[1]]), 0
    try:
        return _view(source, offset, entry, kind)
    except (ValueError, RuntimeError, TypeError, KeyError, OverflowError) as error:
        # more axes than numpy has, sizes beyond 64 bits next to a 0, or a kind that does not fit the shape
        raise TensorError(f"not a tensor file: {shown(name)}: {str(error)[:200]}") from None


def _payload(name: str, data: bytes, entry: Entry, kind: Kind) -> bytes | str:
    if entry.dtype != "U8" or len(entry.shape) != 1:
        shape = shown(list(entry.shape))
        raise TensorError(f"not a tensor file: {shown(name)} is {kind} of dtype {entry.dtype} and shape {shape}")
    try:
        return data if kind == "bytes" else data.decode()
    except UnicodeDecodeError:
        raise TensorError(f"not a tensor file: {shown(name)} is a text, and not UTF-8") from None


def _view(memory: mmap.mmap | bytearray, offset: int, entry: Entry, kind: Kind) -> Any:
    count = prod(entry.shape)
    if kind == "torch":
        import torch

        dtype = getattr(torch, _TORCH[entry.dtype])
        if count == 0:
            return torch.empty(entry.shape, dtype=dtype)
        if (of_numpy := _NUMPY.get(entry.dtype)) is not None:  # one operation of torch takes longer than two of numpy
            return torch.from_numpy(np.frombuffer(memory, of_numpy, count, offset).reshape(entry.shape))
        return torch.frombuffer(memory, dtype=dtype, count=count, offset=offset).reshape(entry.shape)
    array = np.frombuffer(memory, dtype=_NUMPY[entry.dtype], count=count, offset=offset).reshape(entry.shape)
    if kind == "numpy":
        return array
    if array.ndim:
        raise ValueError(f"a {kind} of shape {list(array.shape)}")
    return array[()] if kind == "scalar" else array.item()
