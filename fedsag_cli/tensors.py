"""A dict of tensors <-> a file without a name: order, ties and dtypes kept, no pickle, no copy on reading.

The layout is that of safetensors (https://github.com/huggingface/safetensors): eight bytes of header length, a JSON
header, the data. What that format cannot say stands in its metadata: the order of the keys, which of them are tied,
which values were numpy's or plain numbers.

The file is a memfd, sealed once it is written, so that nobody can change it under its reader; where memory-backed room
is short, an unlinked temporary file. Either way its descriptor is all there is of it: nothing is left by any ending.

torch is used where it is loaded already or where a value needs it: a numpy job never imports it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import mmap
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fedsag_cli import machine
from fedsag_cli.errors import TensorError

_ALIGNMENT = 64
_METADATA = "__metadata__"
_LARGEST_HEADER = 100_000_000
_PIECE = 16 << 20
_SEALS = ("F_SEAL_SEAL", "F_SEAL_SHRINK", "F_SEAL_GROW", "F_SEAL_WRITE")

# safetensors' word, numpy's (empty: numpy has no such dtype), torch's, bytes an element
_DTYPES = [
    ("F64", "float64", "float64", 8),
    ("F32", "float32", "float32", 4),
    ("F16", "float16", "float16", 2),
    ("BF16", "", "bfloat16", 2),
    ("F8_E4M3", "", "float8_e4m3fn", 1),
    ("F8_E5M2", "", "float8_e5m2", 1),
    ("I64", "int64", "int64", 8),
    ("I32", "int32", "int32", 4),
    ("I16", "int16", "int16", 2),
    ("I8", "int8", "int8", 1),
    ("U64", "uint64", "uint64", 8),
    ("U32", "uint32", "uint32", 4),
    ("U16", "uint16", "uint16", 2),
    ("U8", "uint8", "uint8", 1),
    ("BOOL", "bool", "bool", 1),
    ("C64", "complex64", "complex64", 8),
    ("C128", "complex128", "complex128", 16),
]
_NUMPY = {word: name for word, name, _, _ in _DTYPES if name}
_TORCH = {word: name for word, _, name, _ in _DTYPES}
_SIZE = {word: size for word, _, _, size in _DTYPES}
_WORD_OF_NUMPY = {name: word for word, name in _NUMPY.items()}
_WORD_OF_TORCH = {f"torch.{name}": word for word, name in _TORCH.items()}
_DTYPE_OF_NUMBER: dict[type, type] = {bool: np.bool_, int: np.int64, float: np.float64}


class Entry(msgspec.Struct, frozen=True):
    """Where one tensor lies in a file: safetensors' dtype word, shape, first and last byte of the data."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class _Extra(msgspec.Struct, frozen=True):
    """What safetensors cannot say. `kinds`: what is no torch tensor is "numpy", "scalar" (numpy's) or "number"."""

    order: list[str]
    ties: dict[str, str] = {}
    kinds: dict[str, str] = {}
    about: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class _Flat:
    """One value on its way into a file: its bytes, still where they were."""

    dtype: str
    shape: tuple[int, ...]
    kind: str
    identity: tuple[Any, ...]
    data: memoryview


class TensorFile:
    """Tensors in a file, known by its descriptor. Whoever holds one closes it; what `load` gave lives on."""

    def __init__(self, fd: int, *, named: bool = False) -> None:
        """Takes over `fd`. Raises TensorError where the file could change under its reader (`named`: it may)."""
        self._fd = fd
        self._header: tuple[dict[str, Entry], _Extra, int] | None = None
        try:
            status = os.fstat(fd)
            self.size = status.st_size
            if not named and not _is_sealed(fd) and status.st_nlink > 0:
                raise TensorError("a tensor file must be sealed, or have no name: others could change it")
        except BaseException:
            self.close()
            raise

    @classmethod
    def write(cls, params: Mapping[str, Any], *, scratch: str | Path | None = None) -> TensorFile:
        """A new file holding `params`. Raises TensorError naming a key that cannot travel, and why.

        `scratch` is the folder for an unlinked file where memory-backed room is short.
        """
        flats = {name: _flat(name, value) for name, value in params.items()}
        size = sum(len(flat.data) for flat in flats.values())
        fd = _new_file(size, scratch)
        try:
            try:
                _write_into(fd, flats, {})
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.ENOMEM) or scratch is None:
                    raise
                os.close(fd)
                fd = _new_file_on_disk(scratch)
                _write_into(fd, flats, {})
            _seal(fd)
        except BaseException:
            os.close(fd)
            raise
        return cls(fd)

    @classmethod
    def open(cls, path: Path) -> TensorFile:
        """A file with a name, such as a checkpoint. Raises OSError."""
        return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC), named=True)

    def fileno(self) -> int:
        return self._fd

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Every key in its order, ties included, with dtype and shape. Raises TensorError where the file is no good."""
        entries, extra, _ = self._read_header()
        return {name: entries[extra.ties.get(name, name)] for name in extra.order}

    @property
    def about(self) -> Mapping[str, Any]:
        """What was written beside the tensors."""
        return self._read_header()[1].about

    def load(self) -> dict[str, Any]:
        """The params, mapped privately: nothing is copied until somebody writes to it, and nobody else sees that.

        Raises TensorError where the file is no good.
        """
        entries, extra, start = self._read_header()
        if self.size == 0 or not extra.order:
            return {}
        memory = mmap.mmap(self._fd, self.size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        loaded: dict[str, Any] = {}
        for name in extra.order:
            source = extra.ties.get(name, name)
            if source in loaded and source != name:
                loaded[name] = loaded[source]
            else:
                loaded[name] = _value(name, memory, start, entries[source], extra.kinds.get(name, "torch"))
        return loaded

    def moved_to_disk(self, scratch: str | Path) -> TensorFile:
        """The same file as an unlinked one under `scratch`; this one is closed."""
        fd = _new_file_on_disk(scratch)
        offset = 0
        while offset < self.size:
            offset += os.write(fd, os.pread(self._fd, _PIECE, offset))
        self.close()
        return TensorFile(fd)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_header(self) -> tuple[dict[str, Entry], _Extra, int]:
        if self._header is None:
            self._header = _parse_header(self._fd, self.size)
        return self._header


def save(path: Path, params: Mapping[str, Any], about: Mapping[str, Any] | None = None) -> None:
    """Write `params` to a file with a name, whole or not at all. Raises OSError, TensorError."""
    part = path.with_name(path.name + ".part")
    fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        try:
            _write_into(fd, {name: _flat(name, value) for name, value in params.items()}, about or {})
        finally:
            os.close(fd)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def digest(params: Mapping[str, Any]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in the order of the keys: the same bits give the same text."""
    sha = hashlib.sha256()
    for name, value in params.items():
        flat = _flat(name, value)
        sha.update(f"{name}\0{flat.dtype}\0{flat.shape}\0".encode())
        sha.update(flat.data)
    return sha.hexdigest()


def is_torch(value: object) -> bool:
    """Whether `value` is a torch tensor; does not import torch to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _flat(name: str, value: Any) -> _Flat:
    if not isinstance(name, str):
        raise TensorError(f"params: the key {name!r} must be a text, not {type(name).__name__}")
    if name == _METADATA or name != name.encode(errors="replace").decode():
        raise TensorError(f"params: no key can be called {name!r}: safetensors has no room for it")
    if is_torch(value):
        return _flat_torch(name, value)
    if isinstance(value, np.ndarray | np.generic):
        return _flat_numpy(name, value, "numpy" if isinstance(value, np.ndarray) else "scalar")
    if type(value) in _DTYPE_OF_NUMBER:
        try:
            return _flat_numpy(name, np.asarray(value, dtype=_DTYPE_OF_NUMBER[type(value)]), "number")
        except OverflowError:
            raise TensorError(f"params: {name!r} is a whole number beyond 64 bits") from None
    raise TensorError(
        f"params: {name!r} is a {type(value).__name__}",
        hint="params map texts to torch tensors, numpy arrays or numbers; other things go into meta",
    )


def _flat_torch(name: str, value: Any) -> _Flat:
    import torch

    word = _WORD_OF_TORCH.get(str(value.dtype))
    if word is None or value.layout is not torch.strided or value.device.type == "meta":
        raise TensorError(
            f"params: {name!r} is a torch tensor of dtype {value.dtype}, layout {value.layout}, device {value.device}",
            hint="send a dense tensor of a usual dtype, e.g. tensor.to_dense()",
        )
    with torch.no_grad():
        view = (value.data_ptr(), value.shape, value.stride(), value.is_conj(), value.is_neg())
        identity = ("torch", word, *view) if value.numel() else (id(value),)
        here = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
        row = here.as_strided((here.numel(),), (1,))  # a single element counts as contiguous whatever its stride
        data = row.view(torch.uint8).numpy() if here.numel() else np.empty(0, np.uint8)
    return _Flat(word, tuple(value.shape), "torch", identity, data.data)


def _flat_numpy(name: str, value: Any, kind: str) -> _Flat:
    array = np.asarray(value)
    word = _WORD_OF_NUMPY.get(array.dtype.newbyteorder("=").name)
    if word is None:
        raise TensorError(f"params: {name!r} is a numpy array of dtype {array.dtype}", hint="send numbers or booleans")
    address = array.__array_interface__["data"][0]
    view = (address, array.shape, array.strides)
    identity = (kind, array.dtype.str, *view) if kind == "numpy" and array.size else (id(value), name)
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    data = native.reshape(-1).view(np.uint8) if native.size else np.empty(0, np.uint8)
    return _Flat(word, array.shape, kind, identity, data.data)


def _write_into(fd: int, flats: Mapping[str, _Flat], about: Mapping[str, Any]) -> None:
    first: dict[tuple[Any, ...], str] = {}
    ties = {name: first[flat.identity] for name, flat in flats.items() if first.setdefault(flat.identity, name) != name}
    written = [name for name in flats if name not in ties]
    written.sort(key=lambda name: -_SIZE[flats[name].dtype])  # stable; wide elements first keeps each one aligned
    extra = _Extra(
        order=list(flats),
        ties=ties,
        kinds={name: flat.kind for name, flat in flats.items() if flat.kind != "torch"},
        about=dict(about),
    )
    header: dict[str, Any] = {_METADATA: {"fedsag": msgspec.json.encode(extra).decode()}}
    offset = 0
    for name in written:
        end = offset + len(flats[name].data)
        header[name] = {"dtype": flats[name].dtype, "shape": flats[name].shape, "data_offsets": (offset, end)}
        offset = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)
    _write_all(fd, memoryview(len(text).to_bytes(8, "little") + text))
    for name in written:
        _write_all(fd, flats[name].data)


def _write_all(fd: int, data: memoryview) -> None:
    while len(data):
        data = data[os.write(fd, data[: 1 << 30]) :]


def _new_file(size: int, scratch: str | Path | None) -> int:
    large = size > 64 << 20
    if not hasattr(os, "memfd_create") or (scratch is not None and large and size > machine.free_memory() // 2):
        return _new_file_on_disk(scratch)
    return os.memfd_create("fedsag-tensors", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def _new_file_on_disk(scratch: str | Path | None) -> int:
    with tempfile.TemporaryFile(dir=scratch) as file:
        return os.dup(file.fileno())


def _seal(fd: int) -> None:
    if hasattr(fcntl, "F_ADD_SEALS"):
        try:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, sum(getattr(fcntl, name) for name in _SEALS))
        except OSError as error:
            if error.errno != errno.EINVAL:  # not a memfd: an unlinked file has no seals
                raise


def _is_sealed(fd: int) -> bool:
    if not hasattr(fcntl, "F_GET_SEALS"):
        return False
    wanted = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS) & wanted == wanted
    except OSError:
        return False


def _parse_header(fd: int, size: int) -> tuple[dict[str, Entry], _Extra, int]:
    length = int.from_bytes(os.pread(fd, 8, 0), "little")
    if not 2 <= length <= min(size - 8, _LARGEST_HEADER):
        raise TensorError(f"no tensor file: a header of {length} bytes in a file of {size}")
    start = 8 + length
    try:
        fields = msgspec.json.decode(os.pread(fd, length, 8), type=dict[str, msgspec.Raw])
        about = msgspec.json.decode(fields.pop(_METADATA, b"{}"), type=dict[str, str])
        entries = {name: msgspec.json.decode(raw, type=Entry) for name, raw in fields.items()}
        extra = msgspec.json.decode(about["fedsag"], type=_Extra) if "fedsag" in about else _Extra(order=list(entries))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TensorError(f"no tensor file: {error}") from None
    for name, entry in entries.items():
        _check(name, entry, size - start)
    known = all(extra.ties.get(name, name) in entries for name in extra.order)
    if not known or len(set(extra.order)) != len(extra.order):
        raise TensorError("no tensor file: its keys and its tensors do not agree")
    return entries, extra, start


def _check(name: str, entry: Entry, room: int) -> None:
    first, last = entry.data_offsets
    if entry.dtype not in _SIZE:
        raise TensorError(f"no tensor file: {name!r} has the unknown dtype {entry.dtype!r}")
    if min(entry.shape, default=0) < 0 or not 0 <= first <= last <= room:
        raise TensorError(f"no tensor file: {name!r} lies outside the file")
    if last - first != prod(entry.shape) * _SIZE[entry.dtype]:
        raise TensorError(f"no tensor file: {name!r} of shape {list(entry.shape)} does not take {last - first} bytes")


def _value(name: str, memory: mmap.mmap, start: int, entry: Entry, kind: str) -> Any:
    if kind != "torch" and entry.dtype not in _NUMPY:
        raise TensorError(f"no tensor file: numpy has no dtype {entry.dtype}")
    try:
        return _view(memory, start + entry.data_offsets[0], entry, kind)
    except (ValueError, RuntimeError, TypeError, KeyError, OverflowError) as error:
        # more axes than numpy has, sizes beyond 64 bits beside a 0, a kind that does not fit its shape
        raise TensorError(f"no tensor file: {name!r}: {error}") from None


def _view(memory: mmap.mmap, offset: int, entry: Entry, kind: str) -> Any:
    count = prod(entry.shape)
    if kind == "torch":
        import torch

        dtype = getattr(torch, _TORCH[entry.dtype])
        if count == 0:
            return torch.empty(entry.shape, dtype=dtype)
        return torch.frombuffer(memory, dtype=dtype, count=count, offset=offset).reshape(entry.shape)
    array = np.frombuffer(memory, dtype=_NUMPY[entry.dtype], count=count, offset=offset).reshape(entry.shape)
    if kind == "numpy":
        return array
    if array.ndim:
        raise ValueError(f"a {kind} of shape {list(array.shape)}")
    return array[()] if kind == "scalar" else array.item()
