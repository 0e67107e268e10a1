"""A Lightning logger that sends metrics to the server. The job's trackers store them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedsag_cli import client


class ClientLogger:
    """For `Trainer(logger=ClientLogger())`, alone or with other loggers. It writes no file; only rank 0 sends.

    It has the methods and attributes of a Lightning logger, so it works with both packages, `lightning.pytorch` and
    `pytorch_lightning`.
    """

    name = "fedsag"
    version = ""
    save_dir: str | None = None
    root_dir: str | None = None
    log_dir: str | None = None
    group_separator = "/"
    experiment = None

    def __init__(self, prefix: str = "", ctx: client.APIContext | None = None) -> None:
        """With a prefix, metrics are named `prefix-name`. `ctx`: a context of `flare.init()`, by default the last."""
        self._prefix = f"{prefix}-" if prefix else ""
        self._ctx = ctx

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        if client._session(self._ctx, "log").rank == "0":
            named = {f"{self._prefix}{name}": value for name, value in metrics.items()}
            client.log("metrics", named, client.AnalyticsDataType.METRICS, self._ctx, global_step=step)

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        if params and client._session(self._ctx, "log").rank == "0":
            named = params if isinstance(params, Mapping) else vars(params)
            client.log("params", dict(named), client.AnalyticsDataType.PARAMETERS, self._ctx)

    def log_graph(self, model: Any, input_array: Any = None) -> None:
        """Does nothing: trackers store no graphs."""

    def save(self) -> None:
        """Does nothing: every value is sent at once."""

    def finalize(self, status: str) -> None:
        """Does nothing: no file is open."""

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Does nothing: checkpoints are not sent."""
