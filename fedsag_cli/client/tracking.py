"""Writers for a training script, as those of TensorBoard, MLflow and Weights & Biases.

What they are told goes to the server, where every tracker the job names keeps it, whichever writer said it:

    from fedsag_cli.client.tracking import SummaryWriter

    flare.init()
    writer = SummaryWriter()
    writer.add_scalar("train_loss", loss, global_step)

Without a tracker in the job it is kept in the run's `events.jsonl` all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedsag_cli.client import AnalyticsDataType, log

if TYPE_CHECKING:
    from fedsag_cli.client import APIContext

__all__ = ["MLflowWriter", "SummaryWriter", "WandBWriter"]


class _Writer:
    """Of the context that `flare.init()` gave; without one, of the last."""

    def __init__(self, ctx: APIContext | None = None) -> None:
        self._ctx = ctx

    def _log(self, key: str, value: Any, data_type: AnalyticsDataType, **kwargs: Any) -> None:
        log(key, value, data_type, ctx=self._ctx, **kwargs)


class SummaryWriter(_Writer):
    """Says numbers and texts as TensorBoard's does. Where no `global_step` is given, they stand at step 0."""

    def add_scalar(self, tag: str, scalar: Any, global_step: int | None = None, **kwargs: Any) -> None:
        """A number: whatever `float()` takes. Raises ClientError where it takes it not."""
        self._log(tag, scalar, AnalyticsDataType.SCALAR, global_step=global_step, **kwargs)

    def add_scalars(self, tag: str, scalars: Mapping[str, Any], global_step: int | None = None, **kwargs: Any) -> None:
        """Numbers that belong together: each is kept as `tag/name`."""
        self._log(tag, scalars, AnalyticsDataType.SCALARS, global_step=global_step, **kwargs)

    def add_text(self, tag: str, text: str, global_step: int | None = None, **kwargs: Any) -> None:
        self._log(tag, text, AnalyticsDataType.TEXT, global_step=global_step, **kwargs)

    def flush(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """Nothing is held here."""


class WandBWriter(_Writer):
    """Says metrics as Weights & Biases' `run.log` does."""

    def log(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self._log("metrics", metrics, AnalyticsDataType.METRICS, global_step=step)


class MLflowWriter(_Writer):
    """Says metrics, params, tags and texts as MLflow does. Params and tags are kept as text."""

    def log_metric(self, key: str, value: Any, step: int | None = None) -> None:
        self._log(key, value, AnalyticsDataType.METRIC, global_step=step)

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self._log("metrics", metrics, AnalyticsDataType.METRICS, global_step=step)

    def log_param(self, key: str, value: Any) -> None:
        self._log(key, value, AnalyticsDataType.PARAMETER)

    def log_params(self, values: Mapping[str, Any]) -> None:
        self._log("params", values, AnalyticsDataType.PARAMETERS)

    def log_text(self, text: str, artifact_file_path: str) -> None:
        """A text, as the file of that path, relative to the run's artifacts."""
        self._log("text", text, AnalyticsDataType.TEXT, path=artifact_file_path)

    def set_tag(self, key: str, tag: Any) -> None:
        self._log(key, tag, AnalyticsDataType.TAG)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        self._log("tags", tags, AnalyticsDataType.TAGS)
