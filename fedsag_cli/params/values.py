"""One value of params, whatever library it is of: its kind, its elements in a row, their bits, and conversions.

Python's operators work for both torch and numpy, so each rule of arithmetic is written once. Integers and bools are
calculated with numpy: torch lacks many operations for unsigned ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from fedsag_cli.errors import TensorError
from fedsag_cli.params.encoding import is_torch

PIECE = 1 << 18  # elements: 1 MB of float32 stays in the cache for several operations
_TORCH_ALONE = ("torch.bfloat16", "torch.float8")  # numpy does not have these


def as_array(value: Any) -> Any:
    """A torch tensor as it is, without its gradient; other values as a numpy array."""
    return value.detach() if is_torch(value) else np.asarray(value)


def of_kind(array: Any, pattern: Any, *, is_own: bool = False) -> Any:
    """`array` as a torch tensor if `pattern` is one, else as a numpy array.

    `is_own`: nobody else has the memory of a numpy array, so the tensor need not be a copy.
    """
    if is_torch(pattern) and not is_torch(array):
        import torch

        return torch.from_numpy(array if is_own else np.array(array))
    if is_torch(array) and not is_torch(pattern):
        array = array.detach().cpu()
        return (array.float() if str(array.dtype).startswith(_TORCH_ALONE) else array).numpy()
    return array


def numpys(array: Any) -> Any:
    """A numpy array with the same memory. Not for torch's dtypes that numpy does not have."""
    return array.numpy() if is_torch(array) else np.asarray(array)


def kind(value: Any) -> str:
    """The kind of its numbers: "bool", "integer", "float" or "complex"."""
    array = as_array(value)
    if not is_torch(array):
        return {"b": "bool", "f": "float", "c": "complex"}.get(array.dtype.kind, "integer")
    if array.dtype.is_complex or array.dtype.is_floating_point:
        return "complex" if array.dtype.is_complex else "float"
    return "bool" if str(array.dtype) == "torch.bool" else "integer"


def is_float(array: Any) -> bool:
    """Whether its numbers are floats or complex."""
    if is_torch(array):
        return bool(array.dtype.is_floating_point or array.dtype.is_complex)
    return array.dtype.kind in "fc"


def dtype_name(value: Any) -> str:
    """The name of its dtype, such as "float32", for torch and numpy."""
    return str(as_array(value).dtype).removeprefix("torch.")


def sum_dtype(array: Any) -> Any:
    """The dtype for sums of values like `array`, which are not complex."""
    if is_torch(array):
        import torch

        return torch.float32 if array.dtype.is_floating_point and array.dtype.itemsize <= 4 else torch.float64
    return np.dtype(np.float32 if array.dtype.kind == "f" and array.dtype.itemsize <= 4 else np.float64)


def row(value: Any) -> Any:
    """The elements in a row: complex numbers as pairs of floats, integers and bools as a numpy array."""
    array = as_array(value)
    if not is_float(array):
        return of_kind(array, None).reshape(-1)
    if is_torch(array):
        import torch

        array = torch.view_as_real(array.resolve_conj()) if array.dtype.is_complex else array
        return array.reshape(-1)
    flat = array.reshape(-1)
    return flat.view(flat.real.dtype) if flat.dtype.kind == "c" else flat


def in_numpy(*flats: Any) -> list[Any]:
    """Rows of ordinary floats of torch as numpy's with the same memory; all as they are if one of them is another.

    The bits are the same, and an operation on a small row takes half the time.
    """
    return [flat.numpy() for flat in flats] if all(map(_is_ordinary, flats)) else list(flats)


def _is_ordinary(flat: Any) -> bool:
    """Whether it is a plain torch tensor of float32 or float64 in the memory of the CPU."""
    if not is_torch(flat):
        return False
    import torch

    is_plain = type(flat) is torch.Tensor and flat.device.type == "cpu" and not flat.is_neg()
    return is_plain and flat.dtype in (torch.float32, torch.float64)


def shaped(flat: Any, shape: tuple[int, ...], *, is_complex: bool) -> Any:
    """The reverse of `row`: a row in a shape, its pairs as complex numbers."""
    if not is_complex:
        return flat.reshape(shape)
    if is_torch(flat):
        import torch

        return torch.view_as_complex(flat.reshape(*shape, 2))
    return flat.view(np.result_type(flat.dtype, np.complex64)).reshape(shape)


def pieces(flat: Any) -> Iterator[slice]:
    """Slices of a row that fit into the cache."""
    for start in range(0, len(flat), PIECE):
        yield slice(start, start + PIECE)


def bits(flat: Any) -> Any:
    """The bits of a row as a numpy array of unsigned integers, with the same memory if the row is contiguous."""
    if is_torch(flat):
        import torch

        width = flat.dtype.itemsize
        signed = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[width]
        return flat.contiguous().view(signed).numpy().view(f"u{width}")
    return np.ascontiguousarray(flat).view(f"u{flat.dtype.itemsize}")


def multiply(array: Any, factor: float, *, out: Any) -> None:
    """array * factor, in the dtype of both arrays."""
    if is_torch(array):
        import torch

        torch.mul(array, factor, out=out)
    else:
        np.multiply(array, factor, out=out)


def calculable(array: Any) -> Any:
    """Floats of 8 bits as float32, since torch cannot calculate with them; other values unchanged."""
    return array.float() if is_torch(array) and str(array.dtype).startswith("torch.float8") else array


def copied(array: Any) -> Any:
    """A copy in memory of its own."""
    return array.clone() if is_torch(array) else array.copy()


def wide(array: Any) -> Any:
    """Floats as numpy's float64."""
    return array.double().numpy() if is_torch(array) else array.astype(np.float64)


def widened(array: Any) -> Any:
    """Floats in the next dtype that has a wider range: float32, or float64 if they are float32 already."""
    if is_torch(array):
        return array.double() if array.dtype.itemsize >= 4 else array.float()
    return array.astype(np.float64 if array.dtype.itemsize >= 4 else np.float32)


def all_finite(flat: Any) -> bool:
    """Whether a row of floats surely has neither NaN nor infinity; False also where its sum overflows."""
    total_dtype = sum_dtype(flat)
    with np.errstate(all="ignore"):
        if (
            not is_torch(flat)
            and flat.dtype == total_dtype
            and all(math.isfinite(flat[p].dot(flat[p])) for p in pieces(flat))
        ):
            return True  # three times as quick as the sum
        return all(math.isfinite(calculable(flat[part]).sum(dtype=total_dtype).item()) for part in pieces(flat))


def is_finite(array: Any) -> Any:
    """For each float, whether it is neither NaN nor infinite: a numpy array."""
    array = calculable(array)
    return numpys(array.isfinite() if is_torch(array) else np.isfinite(array))


def is_nan(array: Any) -> Any:
    """For each float, whether it is NaN: a numpy array."""
    array = calculable(array)
    return numpys(array.isnan() if is_torch(array) else np.isnan(array))


def cast(array: Any, like: Any) -> Any:
    """`array` in the kind and dtype of `like`.

    Floats become integers or bools by rounding half to even; what is beyond the range becomes its end. Raises
    TensorError if NaN would become an integer, or complex numbers real.
    """
    pattern = as_array(like)
    array = of_kind(as_array(array), pattern)
    if kind(array) == "complex" and kind(pattern) != "complex":
        raise TensorError(f"complex numbers cannot become {dtype_name(pattern)}")
    if array.dtype == pattern.dtype:
        return in_form(array, like)
    if not is_float(pattern):
        narrow = saturated(of_kind(array, None), of_kind(pattern.reshape(-1)[:0], None).dtype)
        return in_form(of_kind(narrow, pattern), like)
    with np.errstate(over="ignore"):
        return in_form(array.to(pattern.dtype) if is_torch(array) else array.astype(pattern.dtype), like)


def in_form(array: Any, like: Any) -> Any:
    """An array as a number, a numpy scalar or an array, as `like` is."""
    if isinstance(like, bool | int | float) and not isinstance(like, np.generic):
        return array.item()
    if is_torch(array):
        return array
    return array[()] if isinstance(like, np.generic) else np.asarray(array)  # numpy's 0-d results are scalars


def saturated(array: Any, dtype: Any) -> Any:
    """A numpy array as integers or bools of `dtype`. Raises TensorError on NaN."""
    array = np.asarray(array)
    if array.dtype.kind == "f":
        if np.isnan(array).any():
            raise TensorError(f"NaN cannot become {dtype}")
        array = np.rint(array)
    if dtype.kind == "b":
        return array > 0
    ends = np.iinfo(dtype)
    if array.dtype.kind == "O":
        return np.clip(array, ends.min, ends.max).astype(dtype)
    if array.dtype.kind in "iu":
        own = np.iinfo(array.dtype)
        return np.clip(array, max(ends.min, own.min), min(ends.max, own.max)).astype(dtype)
    with np.errstate(invalid="ignore"):
        whole = array.astype(dtype)
    if array.dtype.kind == "f":  # the largest int64 is 2**63 as a float, which is beyond it
        whole = np.where(array >= float(ends.max), dtype.type(ends.max), whole)
        whole = np.where(array <= float(ends.min), dtype.type(ends.min), whole)
    return whole
