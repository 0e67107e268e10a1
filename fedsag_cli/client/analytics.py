"""The values that a script can log. Every tracker on the server stores them, no matter which writer the script uses."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from fedsag_cli.client import plain
from fedsag_cli.errors import ClientError, nearest
from fedsag_cli.wire.messages import LogKind, LogValues

ANALYTIC_EVENT_TYPE = "analytix_log_stats"
"""NVFLARE's event of a logged value; job scripts give it to trackers."""


class AnalyticsDataType(str, Enum):
    """The types of value that a script may log; a plural is for a dict of values."""

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
    """The message for a value. Raises ClientError naming a key that cannot be logged, TypeError on a wrong `step`."""
    name = getattr(data_type, "value", data_type)  # the enum above, or NVFLARE's if it is installed
    if name not in AnalyticsDataType.__members__:
        raise ClientError(
            f"log: {data_type!r} is not a type of value", hint=nearest(name, AnalyticsDataType.__members__)
        )
    kind = _KINDS.get(name.removesuffix("S"))
    if kind is None:
        raise ClientError(
            f"log: {key!r} is of type {name}, which no tracker stores", hint="log numbers, params, tags or text"
        )
    values = value if name.endswith("S") else {path or key: value}
    if not isinstance(values, Mapping):
        raise ClientError(f"log: {key!r} is a {type(value).__name__}; {name} takes a dict")
    if name == AnalyticsDataType.SCALARS:
        values = {f"{key}/{inner}": number for inner, number in values.items()}
    converted = plain.floats(values, what="log") if kind == "metric" else plain.texts(values, what="log")
    return LogValues(kind=kind, values={**converted}, step=_step(step))


def _step(step: Any) -> int | None:
    try:
        number = step.item() if hasattr(step, "item") else step
    except (ValueError, RuntimeError):  # an array of many numbers
        number = step
    if number is None or (isinstance(number, int) and not isinstance(number, bool) and -(2**63) <= number < 2**63):
        return number
    raise TypeError(f"log: global_step must be a whole number of at most 63 bits, not {step!r}")
