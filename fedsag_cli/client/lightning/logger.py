"""A Lightning logger that says metrics to the server, where the job's trackers keep them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedsag_cli import client


class ClientLogger:
    """For `Trainer(logger=ClientLogger())`, beside others or alone. It writes nothing here; the first rank speaks.

    It has what Lightning asks of a logger, and is of neither package.
    """

    name = "fedsag"
    version = ""
    save_dir: str | None = None
    root_dir: str | None = None
    log_dir: str | None = None
    group_separator = "/"
    experiment = None

    def __init__(self, prefix: str = "", ctx: client.APIContext | None = None) -> None:
        """Metrics are said as `prefix-name`, where there is a prefix.

        `ctx` is what `flare.init()` gave; without it, the last.
        """
        self._before = f"{prefix}-" if prefix else ""
        self._ctx = ctx

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        if client._session(self._ctx, "log").rank == "0":
            named = {f"{self._before}{name}": value for name, value in metrics.items()}
            client.log("metrics", named, client.AnalyticsDataType.METRICS, self._ctx, global_step=step)

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        if params and client._session(self._ctx, "log").rank == "0":
            named = params if isinstance(params, Mapping) else vars(params)
            client.log("params", dict(named), client.AnalyticsDataType.PARAMETERS, self._ctx)

    def log_graph(self, model: Any, input_array: Any = None) -> None:
        """A tracker keeps no graphs."""

    def save(self) -> None:
        """Nothing waits here."""

    def finalize(self, status: str) -> None:
        """Nothing is held here."""

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Checkpoints stay where they are."""
