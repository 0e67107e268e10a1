"""Federated statistics: of each feature at each site and over all sites, without the data leaving the sites.

The clients are asked twice. First for counts, sums, the ends of histograms without a range, and summaries for
quantiles. Then, with the mean over all sites and with the ranges, for the parts of the variance and for the bins:

    mean = sum_k sum_k(x) / N      var = sum_k sum_k (x - mean)^2 / (N - 1)      bin = sum_k bin_k

N is the number of values of the sites that sent a sum: a site's privacy filter may keep it. `params.quantiles` has the
quantiles.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite, sqrt
from typing import Annotated, Any, TypeAlias

from fedsag_cli.arguments import Least, checked
from fedsag_cli.errors import JobError, TensorError, nearest
from fedsag_cli.events import Notice, ResultTable
from fedsag_cli.facts import Facts, Nvflare
from fedsag_cli.model import GLOBAL_STATISTICS, STATISTICS, FLModel, Task
from fedsag_cli.params import quantiles
from fedsag_cli.workflows import Clients
from fedsag_cli.workflows.run import Run
from fedsag_cli.workflows.statistics_file import JsonStatsFileWriter

_NAMES = ("count", "failure_count", "sum", "mean", "var", "stddev", "histogram", "quantile")
_NEVER_NEGATIVE = ("count", "failure_count", "var", "stddev")
_ALL_SITES = "Global"
_LARGEST = 1e300  # a sum of such numbers over all sites is finite
_PRE_RUN = "fed_stats_pre_run"

ByFeature: TypeAlias = dict[tuple[str, str], Any]
"""Values by data set and feature."""

BySite: TypeAlias = dict[str, ByFeature]
"""Values by site, in site order."""


class StatisticsController:
    """Statistics of the clients' data, per feature and data set, for each site and over all sites.

    A client runs a class with `fedsag_cli.client.statistics`, which lists the task "fed_stats". Features that are not
    numbers are left out. A histogram without a range has the range of all sites and data sets.
    """

    facts = Facts(
        nvflare=Nvflare(
            path="nvflare.app_common.workflows.statistics_controller.StatisticsController",
            ignored=("result_wait_timeout",),
            defaults={"enable_pre_run_task": True},
            whole_numbers=("wait_time_after_min_received",),
        )
    )

    @checked
    def __init__(
        self,
        writer: Annotated[JsonStatsFileWriter, "writes the statistics"],
        statistic_configs: Annotated[
            Mapping[str, Any],
            'which statistics, each with its settings: count {}, mean {}, histogram { "*" { bins = 20 } }, '
            'quantile { "*" = [0.25, 0.5] }',
        ],
        min_clients: Annotated[int | None, Least(1), "number of answers that are needed (null: of all clients)"] = None,
        wait_time_after_min_received: Annotated[
            float, Least(0), "seconds to wait for the other clients once min_clients have answered"
        ] = 1,
        precision: Annotated[int, Least(0), "number of digits after the point that are written"] = 4,
        enable_pre_run_task: Annotated[bool, "whether the task fed_stats_pre_run tells clients what follows"] = False,
    ) -> None:
        """Raises JobError naming the statistic or the setting that is wrong."""
        self._writer, self._settings = writer, {name: dict(each or {}) for name, each in statistic_configs.items()}
        self._min_clients, self._grace_s = min_clients, wait_time_after_min_received
        self._precision, self._tells_before = precision, enable_pre_run_task
        _check(self._settings)

    def run(self, clients: Clients, run: Run) -> None:
        sites: Sequence[str] = clients.takes("fed_stats")
        if not sites:
            raise JobError("no client takes the task 'fed_stats'", hint="see tasks in config_fed_client")
        needed = min(self._min_clients or len(sites), len(sites))
        if self._tells_before and (told := clients.takes(_PRE_RUN)):
            self._ask(clients, told, min(needed, len(told)), 0, self._settings, task=_PRE_RUN)
        found = self._ask(clients, sites, needed, 0, self._first_questions())
        sums = found.get("sum", {})
        counts = {site: {key: found["count"][site][key] for key in of_site} for site, of_site in sums.items()}
        total, num = _added(sums.values()), _added(counts.values())
        mean = {key: total[key] / num[key] for key in total if num[key]}

        sites = list(found["count"])
        found |= self._ask(clients, sites, len(sites), 1, self._second_questions(found), {"count": num, "mean": mean})
        var = _added(found.get("var", {}).values())
        results: dict[str, BySite] = {
            "count": {**found["count"], _ALL_SITES: _added(found["count"].values())},
            "failure_count": {**found["failure_count"], _ALL_SITES: _added(found["failure_count"].values())},
            "sum": {**sums, _ALL_SITES: total},
            "mean": {**{site: _means(sums[site], counts[site]) for site in sums}, _ALL_SITES: mean},
            "var": {**_each(found.get("stddev", {}), lambda deviation: deviation**2), _ALL_SITES: var},
            "stddev": {**found.get("stddev", {}), _ALL_SITES: {key: sqrt(value) for key, value in var.items()}},
            "histogram": {
                **found.get("histogram", {}),
                _ALL_SITES: _bins_added(found.get("histogram", {}).values()),
            },
            "quantile": self._quantiles(found.get("quantile", {})),
        }
        self._finish(run, {name: results[name] for name in self._settings})

    def _ask(
        self,
        clients: Clients,
        sites: Sequence[str],
        needed: int,
        round_num: int,
        wanted: Mapping[str, Any],
        overall: Mapping[str, ByFeature] | None = None,
        task: str = "fed_stats",
    ) -> dict[str, BySite]:
        """The wanted statistics, by name and site. Raises NotEnoughClients."""
        known = {name: _nested(values) for name, values in (overall or {}).items()}
        meta = {STATISTICS: wanted, GLOBAL_STATISTICS: known}
        model = FLModel(current_round=round_num, total_rounds=2, meta=meta)
        found: dict[str, BySite] = {name: {} for name in wanted}
        for reply in clients.broadcast(
            Task(name=task, model=model),
            to=sites,
            min_responses=needed,
            grace_s=self._grace_s,
            check=lambda update, _: _checked(update, {} if task == _PRE_RUN else wanted),
        ):
            for name, values in reply.model.meta[STATISTICS].items():
                found[name][reply.site] = _flat(values)
        return found

    def _first_questions(self) -> dict[str, Any]:
        wants_sum = {"sum", "mean", "var", "stddev"} & self._settings.keys()
        histogram, shares = self._settings.get("histogram"), self._settings.get("quantile")
        return {
            "count": {},
            "failure_count": {},
            **({"sum": {}} if wants_sum else {}),
            **({"min": histogram, "max": histogram} if histogram else {}),
            **({"quantile": shares} if shares else {}),
        }

    def _second_questions(self, found: Mapping[str, BySite]) -> dict[str, Any]:
        wants_var = {"var", "stddev"} & self._settings.keys()
        histogram = self._settings.get("histogram", {})
        features = dict.fromkeys(feature for of_site in found["count"].values() for _, feature in of_site)
        bins = {feature: self._bins(feature, found) for feature in features if _of(feature, histogram)}
        return {
            "count": {},  # the client's privacy filter needs both
            "failure_count": {},
            **({"var": {}, "stddev": {}} if wants_var else {}),
            **({"histogram": {feature: each for feature, each in bins.items() if each["range"]}} if bins else {}),
        }

    def _bins(self, feature: str, found: Mapping[str, BySite]) -> dict[str, Any]:
        """The number of bins and the range; an empty range if no site sent its least and greatest value."""
        setting = _of(feature, self._settings["histogram"])
        low, high = (
            [value for of_site in found[end].values() for (_, name), value in of_site.items() if name == feature]
            for end in ("min", "max")
        )
        return {
            "bins": setting["bins"],
            "range": setting.get("range") or ([min(low), max(high)] if low and high else []),
        }

    def _quantiles(self, found: BySite) -> BySite:
        groups: ByFeature = {}
        for of_site in found.values():
            for key, summary in of_site.items():
                groups.setdefault(key, []).extend(map(tuple, summary["centroids"]))
        overall = {
            (dataset, feature): {
                str(share): quantiles.quantile(each, share) for share in _of(feature, self._settings["quantile"])
            }
            for (dataset, feature), each in groups.items()
            if each
        }
        return {**_each(found, lambda summary: summary["quantile"]), _ALL_SITES: overall}

    def _finish(self, run: Run, results: Mapping[str, BySite]) -> None:
        written: dict[str, Any] = {}
        for statistic, by_site in results.items():
            for site, values in by_site.items():
                for (dataset, feature), value in values.items():
                    of_site = written.setdefault(feature, {}).setdefault(statistic, {}).setdefault(site, {})
                    of_site[dataset] = self._rounded(value)
        path = self._writer.save(written)
        run.emit(Notice(text=f"the statistics are in {path}"))
        run.written([path])
        run.emit(self._table(run.workflow_name, {name: by_site[_ALL_SITES] for name, by_site in results.items()}))

    def _table(self, workflow: str, overall: Mapping[str, ByFeature]) -> ResultTable:
        """The statistics over all sites that are single numbers."""
        numbers = {name: values for name, values in overall.items() if name not in ("histogram", "quantile")}
        shares = dict.fromkeys(share for each in overall.get("quantile", {}).values() for share in each)
        for share in shares:
            at = {key: each[share] for key, each in overall["quantile"].items() if share in each}
            numbers[f"quantile {share}"] = at
        keys = dict.fromkeys(key for values in numbers.values() for key in values)
        return ResultTable(
            workflow=workflow,
            title="Statistics over all sites",
            columns=["data set", "feature", *numbers],
            rows=[[*key, *(self._rounded(values.get(key)) for values in numbers.values())] for key in keys],
        )

    def _rounded(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: self._rounded(each) for name, each in value.items()}
        if isinstance(value, list):
            return [self._rounded(each) for each in value]
        return round(value, self._precision) if isinstance(value, float) else value


def _checked(update: FLModel, wanted: Mapping[str, Any]) -> FLModel:
    """The answer of a client. Raises TensorError if it has not the wanted statistics, in the form of this module."""
    values = update.meta.get(STATISTICS)
    if not isinstance(values, dict) or values.keys() != wanted.keys():
        raise TensorError(
            f"its answer has no statistics {', '.join(wanted)}",
            hint="let the script run a class with fedsag_cli.client.statistics",
        )
    for statistic in values:
        try:
            counted = _flat(values["count"])
            wrong = [
                (key, value)
                for key, value in _flat(values[statistic]).items()
                if key not in counted or not _fits(value, statistic, _of(key[1], wanted[statistic]))
            ]
        except (TypeError, AttributeError, KeyError, ValueError, OverflowError) as error:
            raise TensorError(f"{statistic} has another form: {type(error).__name__}: {error}") from None
        for (dataset, feature), value in wrong:
            raise TensorError(f"{statistic} of {feature!r} in {dataset!r} is {str(value)[:80]}, or has no count")
    return update


def _fits(value: Any, statistic: str, setting: Any) -> bool:
    """Whether it is a value of this statistic. May raise the errors of a value of another form."""
    if statistic == "histogram":
        numbers = all(all(map(_is_number, each)) for each in value)
        return numbers and _has_edges(value, setting) and all(count >= 0 for _, _, count in value)
    if statistic == "quantile":
        are_counted = all(_is_number(mean) and _is_number(count) and count > 0 for mean, count in value["centroids"])
        return are_counted and all(map(_is_number, value["quantile"].values()))
    if statistic == "stddev" and value > sqrt(_LARGEST):
        return False
    return _is_number(value) and (value >= 0 or statistic not in _NEVER_NEGATIVE)


def _has_edges(bins: Sequence[Sequence[float]], setting: Any) -> bool:
    """Whether the bins are those that were asked for: only then can their counts be added to those of other sites."""
    (low, high), num = setting["range"], setting["bins"]
    if len(bins) != num:
        return False
    if low == high:  # numpy makes such a range wider
        return True
    near = 1e-6 * max(abs(low), abs(high))
    edges = [low + (high - low) * (number / num) for number in range(num + 1)]
    return all(
        abs(own_low - edges[number]) <= near and abs(own_high - edges[number + 1]) <= near
        for number, (own_low, own_high, _) in enumerate(bins)
    )


def _is_number(value: Any) -> bool:
    is_one = isinstance(value, int | float) and not isinstance(value, bool)
    return is_one and isfinite(value) and abs(value) <= _LARGEST


def _check(settings: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises JobError."""
    if not settings:
        raise JobError("StatisticsController: statistic_configs is empty", hint="such as { count {}, mean {} }")
    for name, of_statistic in settings.items():
        if name not in _NAMES:
            raise JobError(f"StatisticsController: there is no statistic {name!r}", hint=nearest(name, _NAMES))
        for feature, setting in of_statistic.items():
            where = f"StatisticsController: statistic_configs: {name}: {feature!r}"
            if name == "histogram" and not _is_histogram(setting):
                raise JobError(f"{where} must have bins, and may have a range of two numbers, not {setting!r}")
            if name == "quantile" and not _are_shares(setting):
                raise JobError(f"{where} must be a list of numbers from 0 to 1, not {setting!r}", hint="0.25, not 25")


def _is_histogram(setting: Any) -> bool:
    if not isinstance(setting, Mapping) or not isinstance(setting.get("bins"), int) or setting["bins"] < 1:
        return False
    ends = setting.get("range")
    return ends is None or (isinstance(ends, list) and len(ends) == 2 and ends[0] < ends[1])


def _are_shares(setting: Any) -> bool:
    return isinstance(setting, list) and all(isinstance(share, int | float) and 0 <= share <= 1 for share in setting)


def _of(feature: str, settings: Mapping[str, Any]) -> Any:
    """The setting of a feature, by its name or "*"."""
    return settings.get(feature, settings.get("*"))


def _added(parts: Iterable[ByFeature]) -> ByFeature:
    total: ByFeature = {}
    for part in parts:
        for key, value in part.items():
            total[key] = total[key] + value if key in total else value
    return total


def _bins_added(parts: Iterable[ByFeature]) -> ByFeature:
    total: ByFeature = {}
    for part in parts:
        for key, bins in part.items():
            above = total.get(key, [[low, high, 0] for low, high, _ in bins])
            total[key] = [
                [low, high, sum_ + count] for (low, high, sum_), (_, _, count) in zip(above, bins, strict=True)
            ]
    return total


def _means(sums: ByFeature, counts: ByFeature) -> ByFeature:
    return {key: total / counts[key] for key, total in sums.items() if counts[key]}


def _each(by_site: BySite, change: Any) -> BySite:
    return {site: {key: change(value) for key, value in values.items()} for site, values in by_site.items()}


def _flat(values: Mapping[str, Mapping[str, Any]]) -> ByFeature:
    return {(dataset, feature): value for dataset, features in values.items() for feature, value in features.items()}


def _nested(values: ByFeature) -> dict[str, dict[str, Any]]:
    nested: dict[str, dict[str, Any]] = {}
    for (dataset, feature), value in values.items():
        nested.setdefault(dataset, {})[feature] = value
    return nested
