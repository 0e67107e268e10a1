"""`StatsJob` and `FedStatsRecipe`: statistics of the sites' data, such as means and histograms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedsag_cli.recipe.bases import Recipe
from fedsag_cli.recipe.checking import Count, checked
from fedsag_cli.recipe.fed_job import FedJob
from fedsag_cli.recipe.parts import made
from fedsag_cli.recipe.settings import FilterType

_COMMON = "nvflare.app_common"
_WRITER = "stats_writer"


class StatsJob(FedJob):
    """A job that computes `statistic_configs` and writes them to `output_path`; `setup_clients` names the sites.

    `stats_generator` reads the data of a site. Counts below `min_count` are not told, minima and maxima get noise
    between the two levels, and a histogram has at most `max_bins_percent` of the number of samples as bins.
    """

    @checked
    def __init__(
        self,
        name: str,
        statistic_configs: Mapping[str, Any],
        stats_generator: Any,
        output_path: str,
        min_count: Count = 10,
        min_noise_level: float = 0.1,
        max_noise_level: float = 0.3,
        max_bins_percent: float = 10,
    ) -> None:
        super().__init__(name)
        self._generator = stats_generator
        path = f"{_COMMON}.statistics"
        self._cleansers = {
            "min_count_cleanser": made(f"{path}.min_count_cleanser.MinCountCleanser", min_count=min_count),
            "min_max_noise_cleanser": made(
                f"{path}.min_max_cleanser.AddNoiseToMinMax",
                min_noise_level=min_noise_level,
                max_noise_level=max_noise_level,
            ),
            "hist_bins_cleanser": made(
                f"{path}.histogram_bins_cleanser.HistogramBinsCleanser", max_bins_percent=max_bins_percent
            ),
        }
        controller = made(
            f"{_COMMON}.workflows.statistics_controller.StatisticsController",
            statistic_configs=dict(statistic_configs),
            writer_id=_WRITER,
            enable_pre_run_task=False,
        )
        self.to_server(controller)
        writer = made(
            f"{path}.json_stats_file_persistor.JsonStatsFileWriter",
            output_path=output_path,
            json_encoder_path=f"{_COMMON}.utils.json_utils.ObjectEncoder",
        )
        self.to_server(writer, id=_WRITER)

    def setup_clients(self, sites: Sequence[str]) -> None:
        for site in sites:
            generator = self.to(self._generator, site, id="stats_generator")
            executor = made(
                f"{_COMMON}.executors.statistics.statistics_executor.StatisticsExecutor", generator_id=generator
            )
            self.to(executor, site, tasks=["fed_stats_pre_run", "fed_stats"])
            ids = [self.to(part, site, id=name) for name, part in self._cleansers.items()]
            path = f"{_COMMON}.filters.statistics_privacy_filter.StatisticsPrivacyFilter"
            self.to(made(path, result_cleanser_ids=ids), site, tasks=["fed_stats"], filter_type=FilterType.TASK_RESULT)


class FedStatsRecipe(Recipe):
    """Statistics of the data of `sites`, written to `stats_output_path`."""

    @checked
    def __init__(
        self,
        name: str,
        stats_output_path: str,
        sites: Sequence[str],
        statistic_configs: Mapping[str, Any],
        stats_generator: Any,
        min_count: Count = 10,
        min_noise_level: float = 0.1,
        max_noise_level: float = 0.3,
        max_bins_percent: float = 10,
    ) -> None:
        job = StatsJob(
            name,
            statistic_configs,
            stats_generator,
            stats_output_path,
            min_count,
            min_noise_level,
            max_noise_level,
            max_bins_percent,
        )
        job.setup_clients(sites)
        super().__init__(job)
