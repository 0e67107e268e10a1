"""Writers for a training script, with the methods of TensorBoard's, MLflow's and Weights & Biases' writers.

They send the values to the server. Every tracker of the job stores them, no matter which writer the script uses:

    from fedsag_cli.client.tracking import SummaryWriter

    flare.init()
    writer = SummaryWriter()
    writer.add_scalar("train_loss", loss, global_step)

The values are also in `events.jsonl`, even without a tracker.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedsag_cli.client import AnalyticsDataType, log

if TYPE_CHECKING:
    from fedsag_cli.client import APIContext

__all__ = ["MLflowWriter", "SummaryWriter", "WandBWriter"]


class _Writer:
    """Logs with the context that `flare.init()` returned; the default is the last one."""

    def __init__(self, ctx: APIContext | None = None) -> None:
        self._ctx = ctx

    def _log(self, key: str, value: Any, data_type: AnalyticsDataType, **kwargs: Any) -> None:
        log(key, value, data_type, ctx=self._ctx, **kwargs)


class SummaryWriter(_Writer):
    """Logs numbers and texts with TensorBoard's methods. Without a `global_step` they are stored at step 0."""

    def add_scalar(self, tag: str, scalar: Any, global_step: int | None = None, **kwargs: Any) -> None:
        """Log a number. Raises ClientError if `float()` does not accept it."""
        self._log(tag, scalar, AnalyticsDataType.SCALAR, global_step=global_step, **kwargs)

    def add_scalars(self, tag: str, scalars: Mapping[str, Any], global_step: int | None = None, **kwargs: Any) -> None:
        """Log numbers that belong together, each as `tag/name`."""
        self._log(tag, scalars, AnalyticsDataType.SCALARS, global_step=global_step, **kwargs)

    def add_text(self, tag: str, text: str, global_step: int | None = None, **kwargs: Any) -> None:
        self._log(tag, text, AnalyticsDataType.TEXT, global_step=global_step, **kwargs)

    def flush(self) -> None:
        """Does nothing: every value is sent at once."""

    def close(self) -> None:
        """Does nothing: the session stays open."""


class WandBWriter(_Writer):
    """Logs metrics as `run.log` of Weights & Biases."""

    def log(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self._log("metrics", metrics, AnalyticsDataType.METRICS, global_step=step)


class MLflowWriter(_Writer):
    """Logs metrics, params, tags and texts with MLflow's methods. Params and tags are stored as text."""

    def log_metric(self, key: str, value: Any, step: int | None = None) -> None:
        self._log(key, value, AnalyticsDataType.METRIC, global_step=step)

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self._log("metrics", metrics, AnalyticsDataType.METRICS, global_step=step)

    def log_param(self, key: str, value: Any) -> None:
        self._log(key, value, AnalyticsDataType.PARAMETER)

    def log_params(self, values: Mapping[str, Any]) -> None:
        self._log("params", values, AnalyticsDataType.PARAMETERS)

    def log_text(self, text: str, artifact_file_path: str) -> None:
        """Log a text; its file has this path in the artifacts of the run."""
        self._log("text", text, AnalyticsDataType.TEXT, path=artifact_file_path)

    def set_tag(self, key: str, tag: Any) -> None:
        self._log(key, tag, AnalyticsDataType.TAG)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        self._log("tags", tags, AnalyticsDataType.TAGS)
