"""Strategies: whatever may be sent in a tensor file."""

import numpy as np
import torch
from hypothesis import strategies as st

TORCH_DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8,
    torch.bool, torch.complex64, torch.complex128,
]  # fmt: skip
NUMPY_DTYPES = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?", "c8", "c16"]
SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)
KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(
    lambda text: text != "__metadata__" and text[:1] != "\0"
)


def bits(value):
    """Kind, dtype, shape and bytes: equal where nothing was lost, NaN or not."""
    if isinstance(value, torch.Tensor):
        raw = value.detach().clone(memory_format=torch.contiguous_format).reshape(-1)
        data = raw.view(torch.uint8).numpy().tobytes() if raw.numel() else b""
        return "torch", str(value.dtype), tuple(value.shape), data
    if isinstance(value, np.ndarray | np.generic):
        native = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("="))
        return type(value).__name__, native.dtype.str, value.shape, native.tobytes()
    return type(value).__name__, repr(value)


def random_bytes(count):
    return st.binary(min_size=count, max_size=count)


@st.composite
def torch_tensors(draw):
    dtype, shape = draw(st.sampled_from(TORCH_DTYPES)), draw(SHAPES)
    count = int(np.prod(shape, dtype=int))
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    raw = bytearray(draw(random_bytes(count * dtype.itemsize)))
    if dtype == torch.bool:
        raw = bytearray(byte & 1 for byte in raw)
    value = torch.frombuffer(raw, dtype=dtype).reshape(shape)
    changes = [lambda t: t]
    if value.ndim:
        changes += [lambda t: t.transpose(0, -1), lambda t: t[::2]]
    return draw(st.sampled_from(changes))(value)


@st.composite
def numpy_values(draw):
    dtype, shape = np.dtype(draw(st.sampled_from(NUMPY_DTYPES))), draw(SHAPES)
    count = int(np.prod(shape, dtype=int))
    raw = draw(random_bytes(count * dtype.itemsize))
    if dtype.kind == "b":
        raw = bytes(byte & 1 for byte in raw)
    value = np.frombuffer(raw, dtype=dtype).reshape(shape)
    if draw(st.booleans()):
        value = value.astype(dtype.newbyteorder(">"))
    changes = [lambda a: a, lambda a: a.T, np.asfortranarray]
    if value.ndim:
        changes += [lambda a: a[::-1], lambda a: a[..., ::2]]
    value = draw(st.sampled_from(changes))(value)
    return value[()] if value.ndim == 0 and draw(st.booleans()) else value


NUMBERS = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats()
PAYLOADS = st.binary() | st.text()
