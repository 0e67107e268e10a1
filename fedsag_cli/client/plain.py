"""Converts the metrics, counts and logged values of scripts to Python's own types, which can be sent."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any

from fedsag_cli.errors import ClientError


def floats(values: Mapping[Any, Any], *, what: str) -> dict[str, float]:
    """`float()` of each value, by name. Raises ClientError naming `what` and the name."""
    numbers: dict[str, float] = {}
    for name, value in values.items():
        key = _utf8(name, what)
        try:
            numbers[key] = float(value)
        except (
            TypeError,
            ValueError,
            OverflowError,
            RuntimeError,
        ):  # RuntimeError: torch's, for a tensor of many numbers
            raise ClientError(
                f"{what}: {name!r} is a {type(value).__name__}, not a number",
                hint="metrics are single numbers; put other values into meta",
            ) from None
    return numbers


def finite_numbers(values: Mapping[Any, Any]) -> dict[str, float]:
    """Those of the values that are finite numbers, by name; the others are left out."""
    numbers: dict[str, float] = {}
    for name, value in values.items():
        with contextlib.suppress(TypeError, ValueError, OverflowError, RuntimeError):
            if not isinstance(value, str) and math.isfinite(number := float(value)):
                numbers[str(name)] = number
    return numbers


def count(value: Any, *, what: str) -> int | None:
    """The value as a whole number of at least 0; None if it is None. Raises ClientError naming `what`."""
    if value is None:
        return None
    number = floats({what: value}, what="meta")[what]
    if not (number.is_integer() and 0 <= number < 1 << 53):
        raise ClientError(f"{what} must be a whole number from 0 on, not {value!r}")
    return int(number)


def texts(values: Mapping[Any, Any], *, what: str) -> dict[str, float | str]:
    """`str()` of each value, by name. Raises ClientError if UTF-8 cannot encode a text."""
    return {_utf8(name, what): _utf8(value, what) for name, value in values.items()}


def _utf8(value: Any, what: str) -> str:
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ClientError(f"{what}: UTF-8 cannot encode {text!r}") from None
    return text
