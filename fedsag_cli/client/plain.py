"""What scripts hand over beside tensors, as plain values that travel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from fedsag_cli.errors import ClientError, TensorError


def floats(values: Mapping[Any, Any], *, what: str) -> dict[str, float]:
    """Single numbers by name: whatever `float()` takes. Raises ClientError naming `what` and the name."""
    numbers: dict[str, float] = {}
    for name, value in values.items():
        key = _utf8(name, what)
        try:
            numbers[key] = float(value)
        except (TypeError, ValueError, OverflowError, RuntimeError):  # torch's for many numbers in one tensor
            raise ClientError(
                f"{what}: {name!r} is a {type(value).__name__}, not a number",
                hint="metrics are single numbers; other things go into meta",
            ) from None
    return numbers


def texts(values: Mapping[Any, Any], *, what: str) -> dict[str, float | str]:
    """Whatever it is, as text by name. Raises ClientError where UTF-8 cannot hold it."""
    return {_utf8(name, what): _utf8(value, what) for name, value in values.items()}


def builtins(values: Mapping[str, Any], *, what: str) -> dict[str, Any]:
    """Values of JSON's kinds, and bytes. Raises TensorError naming `what` and the key that cannot travel."""
    plain: dict[str, Any] = {}
    for name, value in values.items():
        try:
            plain[name] = msgspec.to_builtins(value, enc_hook=_number)
            msgspec.msgpack.encode({name: plain[name]})
        except (TypeError, ValueError, RuntimeError):  # as above
            raise TensorError(f"{what}: {name!r} is a {type(value).__name__} that cannot travel") from None
    return plain


def _utf8(value: Any, what: str) -> str:
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ClientError(f"{what}: {text!r} holds what UTF-8 cannot") from None
    return text


def _number(value: Any) -> Any:
    """numpy's and torch's single numbers say what they are by `item()`."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(type(value).__name__)
