"""When a workflow has done enough rounds before its last."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping

from fedsag_cli.errors import JobError
from fedsag_cli.workflows.run import Plateau

_IS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_CONDITION = re.compile(r"\s*(?P<metric>.*?[^\s<>=])\s*(?P<is>[<>]=?)\s*(?P<value>\S+)\s*")


class StopCondition:
    """A metric's mean over the clients has come to a value, `"accuracy >= 80"`, or `patience` rounds were no better.

    Better is strictly more where the condition asks for more (`>=`, `>`), strictly less otherwise (`<=`, `<`).
    """

    def __init__(self, text: str, patience: int | None = None) -> None:
        """Raises JobError for a text that is no condition."""
        parts = _CONDITION.fullmatch(text) if isinstance(text, str) else None
        try:
            self._value = float(parts["value"]) if parts else None
        except ValueError:
            self._value = None
        if parts is None or self._value is None:
            raise JobError(
                f"ScatterAndGather: stop_cond must be a metric, one of {' '.join(_IS)}, and a number, not {text!r}",
                hint='stop_cond = "accuracy >= 80"',
            )
        self.metric, self._is = parts["metric"], parts["is"]
        self._patience = patience

    def counted(self, plateau: Plateau | None, metrics: Mapping[str, float | None]) -> Plateau | None:
        """The plateau after one more round, which had these metrics. None as long as none had this one."""
        value = metrics.get(self.metric)
        if value is not None and (plateau is None or _IS[self._is[0]](value, plateau.best)):
            return Plateau(best=value)
        return plateau and Plateau(best=plateau.best, rounds=plateau.rounds + 1)

    def reason(self, plateau: Plateau | None, metrics: Mapping[str, float | None]) -> str:
        """Why this was the last round, which had these metrics; empty where it was not."""
        value = metrics.get(self.metric)
        if value is not None and self._value is not None and _IS[self._is](value, self._value):
            return f"{self.metric} is {value:.6g}, which is {self._is} {self._value:g}"
        if plateau and self._patience and plateau.rounds >= self._patience:
            many = "1 round" if plateau.rounds == 1 else f"{plateau.rounds} rounds"
            return f"{self.metric} was no better than {plateau.best:.6g} for {many}"
        return ""
