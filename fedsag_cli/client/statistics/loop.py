"""Answers the server's questions about a site's data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import fedsag_cli.client as flare
from fedsag_cli.client.statistics.spec import DataType, Statistics
from fedsag_cli.errors import ClientError
from fedsag_cli.interop.base.context import Engine, FLContext, Workspace
from fedsag_cli.model import GLOBAL_STATISTICS, STATISTICS

_NUMERIC = (DataType.INT, DataType.FLOAT)
_PRE_RUN = "fed_stats_pre_run"


def run(generator: Statistics, app: Path | None = None) -> None:
    """Take part in the run that started this process, until its end.

    `app`: the folder of the app in the workspace (default: the working directory). Raises ClientError if `generator`
    has not a method that the job needs.
    """
    flare.init()
    context = FLContext(flare.get_site_name(), flare.get_job_id(), Engine(Workspace(app or Path.cwd()), {}))
    generator.initialize(context)
    while flare.is_running():
        task = flare.receive()
        assert task is not None  # is_running() was True
        wanted = task.meta.get(STATISTICS)
        if wanted is None:
            raise ClientError(
                f"the task {flare.get_task_name()!r} asks for no statistics",
                hint="let the workflow be a StatisticsController, and tasks be [fed_stats]",
            )
        if flare.get_task_name() == _PRE_RUN:
            generator.pre_run(list(wanted), *_histogram_settings(wanted))
            values: dict[str, Any] = {}
        else:
            values = measured(generator, wanted, task.meta.get(GLOBAL_STATISTICS) or {})
        flare.send(flare.FLModel(params={}, meta={STATISTICS: values}))
    generator.finalize(context)


def measured(generator: Statistics, wanted: Mapping[str, Any], overall: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the wanted statistics, by statistic, data set and feature. Raises ClientError.

    `wanted`: the settings of each statistic. `overall`: statistics over all sites, for those that need them. A value
    that is NaN or infinite, such as the standard deviation of one number, is left out.
    """
    values: dict[str, Any] = {statistic: {} for statistic in wanted}
    for dataset, features in generator.features().items():
        names = [feature.feature_name for feature in features if feature.data_type in _NUMERIC]
        for statistic, settings in wanted.items():
            of_features = {name: _one(generator, statistic, settings, overall, dataset, name) for name in names}
            values[statistic][dataset] = {name: value for name, value in of_features.items() if value is not None}
    return values


def _one(
    generator: Statistics, statistic: str, settings: Any, overall: Mapping[str, Any], dataset: str, feature: str
) -> Any:
    try:
        value = _MEASURE[statistic](generator, settings, overall, dataset, feature)
    except NotImplementedError:
        raise ClientError(
            f"{type(generator).__name__} cannot measure {statistic!r}",
            hint="write the method, or take it out of statistic_configs",
        ) from None
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _variance(generator: Statistics, _: Any, overall: Mapping[str, Any], dataset: str, feature: str) -> float | None:
    count, mean = (overall.get(name, {}).get(dataset, {}).get(feature) for name in ("count", "mean"))
    if count is None or mean is None or count < 2:
        return None
    return float(generator.variance_with_mean(dataset, feature, mean, count))


def _histogram(generator: Statistics, settings: Any, _: Any, dataset: str, feature: str) -> list[list[float]] | None:
    if feature not in settings:
        return None
    low, high = settings[feature]["range"]
    made = generator.histogram(dataset, feature, settings[feature]["bins"], low, high)
    return [[float(one.low_value), float(one.high_value), _number(one.sample_count)] for one in made.bins]


def _end(method: str) -> Callable[..., float | None]:
    """The least or greatest value, for features whose histogram has no range."""

    def measure(generator: Statistics, settings: Any, _: Any, dataset: str, feature: str) -> float | None:
        setting = settings.get(feature, settings.get("*"))
        if setting is None or "range" in setting:
            return None
        return float(getattr(generator, method)(dataset, feature))

    return measure


def _quantiles(generator: Statistics, settings: Any, _: Any, dataset: str, feature: str) -> dict[str, Any] | None:
    shares = settings.get(feature, settings.get("*"))
    if not shares:
        return None
    found = generator.quantiles(dataset, feature, shares)
    groups = (found.get("digest_coord") or {}).get("centroids") or []
    return {
        "quantile": {str(q): float(value) for q, value in found["quantile"].items()},
        "centroids": [[float(group["m"]), float(group["c"])] for group in groups],
    }


def _number(value: Any) -> float:
    """An int if it is whole."""
    return int(value) if int(value) == value else float(value)


_MEASURE: Mapping[str, Callable[[Statistics, Any, Mapping[str, Any], str, str], Any]] = {
    "count": lambda generator, _, __, *where: int(generator.count(*where)),
    "failure_count": lambda generator, _, __, *where: int(generator.failure_count(*where)),
    "sum": lambda generator, _, __, *where: float(generator.sum(*where)),
    "stddev": lambda generator, _, __, *where: float(generator.stddev(*where)),
    "var": _variance,
    "min": _end("min_value"),
    "max": _end("max_value"),
    "histogram": _histogram,
    "quantile": _quantiles,
}


def _histogram_settings(
    wanted: Mapping[str, Any],
) -> tuple[dict[str, int | None] | None, dict[str, list[float] | None] | None]:
    settings = wanted.get("histogram")
    if settings is None:
        return None, None
    return (
        {name: each.get("bins") for name, each in settings.items()},
        {name: each.get("range") for name, each in settings.items()},
    )
