"""What `log` takes, and what of it travels: any tracker on the server keeps what any writer here says."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from fedsag_cli.client import plain
from fedsag_cli.errors import ClientError
from fedsag_cli.messages import LogKind, LogValues


class AnalyticsDataType(str, Enum):
    """The kinds of value a script may log: one by its key, or, in the plural, a dict of them."""

    SCALAR = "SCALAR"
    SCALARS = "SCALARS"
    METRIC = "METRIC"
    METRICS = "METRICS"
    PARAMETER = "PARAMETER"
    PARAMETERS = "PARAMETERS"
    TAG = "TAG"
    TAGS = "TAGS"
    TEXT = "TEXT"
    IMAGE = "IMAGE"
    MODEL = "MODEL"
    LOG_RECORD = "LOG_RECORD"
    INIT_DATA = "INIT_DATA"


_KINDS: dict[str, LogKind] = {
    "SCALAR": "metric",
    "METRIC": "metric",
    "PARAMETER": "param",
    "TAG": "tag",
    "TEXT": "text",
}


def log_values(
    key: str, value: Any, data_type: AnalyticsDataType | str, *, step: Any = None, path: str | None = None
) -> LogValues:
    """Raises ClientError naming the key that cannot be logged, TypeError where `step` is no whole number."""
    name = AnalyticsDataType(getattr(data_type, "value", data_type)).value  # or NVFLARE's own, where it is installed
    kind = _KINDS.get(name.removesuffix("S"))
    if kind is None:
        raise ClientError(f"log: {key!r} is of type {name}, which no tracker keeps", hint="numbers, params, tags, text")
    values = value if name.endswith("S") else {path or key: value}
    if not isinstance(values, Mapping):
        raise ClientError(f"log: {key!r} is a {type(value).__name__}; {name} takes a dict")
    if name == AnalyticsDataType.SCALARS:
        values = {f"{key}/{inner}": number for inner, number in values.items()}
    plainly = plain.floats(values, what="log") if kind == "metric" else plain.texts(values, what="log")
    return LogValues(kind=kind, values={**plainly}, step=_step(step))


def _step(step: Any) -> int | None:
    if hasattr(step, "item"):
        step = step.item()
    if step is not None and (isinstance(step, bool) or not isinstance(step, int)):
        raise TypeError(f"log: global_step must be a whole number, not {step!r}")
    return step
