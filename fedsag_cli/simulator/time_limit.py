"""The time that a run may take, `--max-time`."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from fedsag_cli.errors import OutOfTime, UsageError

_NUMBER = r"\d+(?:\.\d+)?"
_PARTS = re.compile("".join(rf"(?:(?P<{unit}>{_NUMBER}){unit})?" for unit in "dhms"))
_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_LONGEST_S = 366 * _SECONDS["d"]


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """`text`: the limit as the user wrote it. `ends`: when the time is over, on the clock of `time.monotonic`."""

    text: str
    ends: float

    @property
    def left_s(self) -> float:
        """How many seconds are left: 0 when the time is over."""
        return max(0.0, self.ends - time.monotonic())

    def check(self) -> None:
        """Raises OutOfTime if the time is over."""
        if self.left_s == 0.0:
            raise OutOfTime(self.text)


def time_limit(given: str | TimeLimit | None) -> TimeLimit | None:
    """The limit of a run that starts now, or one whose time runs already. Raises UsageError if a text is no time."""
    return TimeLimit(given, time.monotonic() + seconds_in(given)) if isinstance(given, str) else given


def seconds_in(text: str) -> float:
    """The seconds of a time: 90, 10m, 1h30m, 1.5h, 2d. Raises UsageError."""
    words = re.sub(r"\s", "", text).lower()
    if re.fullmatch(_NUMBER, words):
        words += "s"
    found = _PARTS.fullmatch(words)
    if not words or found is None:
        raise UsageError(f"--max-time {text!r} is not a time", hint="examples: 90s, 10m, 1h30m, 2d")
    seconds = sum(float(number) * _SECONDS[unit] for unit, number in found.groupdict(default="0").items())
    if not 0 < seconds <= _LONGEST_S:
        raise UsageError(f"--max-time {text}: it must be more than 0 s and at most 366 days")
    return seconds
