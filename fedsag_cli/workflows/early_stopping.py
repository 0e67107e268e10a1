"""When a workflow has done enough rounds before its last."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping

from fedsag_cli.arguments import Form
from fedsag_cli.workflows.run import Plateau

STOP_CONDITION = Form(  # an empty text is none
    r"|\s*(?P<metric>.*?[^\s<>=])\s*(?P<is>[<>]=?)\s*(?P<value>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*",
    "a metric, one of >= <= > <, and a number",
    "accuracy >= 80",
)
_IS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}


class StopCondition:
    """A metric's mean over the clients has come to a value, `"accuracy >= 80"`, or `patience` rounds were no better.

    Better is strictly more where the condition asks for more (`>=`, `>`), strictly less otherwise (`<=`, `<`).
    """

    def __init__(self, text: str, patience: int | None = None) -> None:
        """`text` is of the form STOP_CONDITION, and not empty. Raises ValueError where it is not."""
        parts = re.fullmatch(STOP_CONDITION.pattern, text)
        if not text or parts is None:
            raise ValueError(f"{text!r} is no stop condition: it must be {STOP_CONDITION.what}")
        self.metric, self._is, self._value = parts["metric"], parts["is"], float(parts["value"])
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
        if value is not None and _IS[self._is](value, self._value):
            return f"{self.metric} is {value:.6g}, which is {self._is} {self._value:g}"
        if plateau and self._patience and plateau.rounds >= self._patience:
            many = "1 round" if plateau.rounds == 1 else f"{plateau.rounds} rounds"
            return f"{self.metric} was no better than {plateau.best:.6g} for {many}"
        return ""
