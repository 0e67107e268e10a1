"""NVFLARE's writers under fedsag's names."""

from typing import Any

from nvflare.client import AnalyticsDataType, log
from nvflare.client import tracking as _nvflare
from nvflare.client.tracking import MLflowWriter, WandBWriter  # noqa: F401


class SummaryWriter(_nvflare.SummaryWriter):  # type: ignore[misc]  # NVFLARE has no types
    def add_text(self, tag: str, text: str, global_step: int | None = None, **kwargs: Any) -> None:
        log(tag, text, AnalyticsDataType.TEXT, global_step=global_step, **kwargs)

    def close(self) -> None:
        pass
