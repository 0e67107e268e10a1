"""Early stopping: the condition that ends a workflow before its last round."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping

from fedsag_cli.arguments import Form
from fedsag_cli.workflows.run import Plateau

STOP_CONDITION = Form(  # an empty text is none
    r"|\s*(?P<metric>.*?[^\s<>=])\s*(?P<operator>[<>]=?|=)\s*(?P<value>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*",
    "a metric, one of >= <= > < =, and a number",
    "accuracy >= 80",
)
_COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "=": operator.eq}


class StopCondition:
    """The mean of a metric reaches a value, as in "accuracy >= 80", or does not improve for `patience` rounds.

    To improve is to be strictly higher for `>=` and `>`, strictly lower for `<=` and `<`, strictly nearer for `=`.
    """

    def __init__(self, text: str, patience: int | None = None) -> None:
        """`text`: as STOP_CONDITION describes. Raises ValueError if it does not match."""
        parts = re.fullmatch(STOP_CONDITION.pattern, text)
        if not text or parts is None:
            raise ValueError(f"{text!r} is not a stop condition: it must be {STOP_CONDITION.description}")
        self.metric, self._operator, self._value = parts["metric"], parts["operator"], float(parts["value"])
        self._patience = patience

    def counted(self, plateau: Plateau | None, metrics: Mapping[str, float | None]) -> Plateau | None:
        """The plateau after one more round, which had these metrics; None until a round has the metric."""
        value = metrics.get(self.metric)
        if value is not None and (plateau is None or self._improves(value, plateau.best)):
            return Plateau(best=value)
        return plateau and Plateau(best=plateau.best, rounds=plateau.rounds + 1)

    def reason(self, plateau: Plateau | None, metrics: Mapping[str, float | None]) -> str:
        """Why the round with these metrics is the last; empty if it is not."""
        value = metrics.get(self.metric)
        if value is not None and _COMPARE[self._operator](value, self._value):
            return f"{self.metric} is {value:.6g}, which is {self._operator} {self._value:g}"
        if plateau and self._patience and plateau.rounds >= self._patience:
            many = "1 round" if plateau.rounds == 1 else f"{plateau.rounds} rounds"
            return f"{self.metric} was no better than {plateau.best:.6g} for {many}"
        return ""

    def _improves(self, value: float, best: float) -> bool:
        if self._operator == "=":
            return abs(value - self._value) < abs(best - self._value)
        return bool(_COMPARE[self._operator[0]](value, best))
