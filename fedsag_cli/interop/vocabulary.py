"""NVFLARE's classes: which component of ours stands for each, and what is done with those that need none.

What stands for a class beside a component's own is said by the component, in its facts.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from fedsag_cli import catalog
from fedsag_cli.facts import Nvflare
from fedsag_cli.job import executor

AVERAGE_BY_THEMSELVES = ("FedAvg", "PTFedAvg", "PTFedAvgEarlyStopping")
FEDERATED_AVERAGING = Nvflare(  # their workflow that averages by itself is our ScatterAndGather with components
    path="nvflare.app_common.workflows.fedavg.FedAvg",
    renamed={"task_name": "train_task_name"},
    ignored=("memory_gc_rounds", "enable_tensor_disk_offload", "save_filename"),
)
MORE_THAN_THERE_ARE = 1000  # clients: it counts as all
DONE_ANYWAY = {  # by the workflow or the executor, or for a workflow that is not there
    "FullModelShareableGenerator", "SubprocessLauncher",
    "ValidationJsonGenerator", "PTFileModelLocator", "NPModelLocator", "NPFormatter",
}  # fmt: skip
OURSELVES = "fedsag carries its messages itself"
LEFT_OUT = {
    "CellPipe": OURSELVES,
    "FilePipe": OURSELVES,
    "MetricRelay": OURSELVES,
    "ExternalConfigurator": OURSELVES,
    "ConvertToFedEvent": OURSELVES,
    "TBWriter": OURSELVES,
    "MLflowWriter": OURSELVES,
    "WandBWriter": OURSELVES,
    "MetricsArtifactWriter": "metrics are in report.json",
    "JobStatsReporter": "times and sizes are in report.json",
    "ModelSizeEstimator": "sizes are in report.json",
}

NUMPY_PROGRAM = ("python3", "-m", "fedsag_cli.client.np_trainer")
NUMPY_EXECUTORS = {  # an argument of theirs is a flag of our program, or an argument of our executor
    "NPTrainer": {
        "delta": "--delta",
        "sleep_time": "--sleep_time",
        "model_dir": "--model_dir",
        "model_name": "--model_name",
    },
    "NPValidator": {"sleep_time": "--validate_sleep_time", "validate_task_name": "evaluate_task_name"},
}
_NUMPY_IGNORED = ("epsilon",)


def components() -> Mapping[str, tuple[str, Nvflare]]:
    """Our component's name for each class of theirs, and how they differ; `defaults` are those of that class."""
    return _components(tuple(catalog.KNOWN))


@functools.cache
def _components(names: Sequence[str]) -> Mapping[str, tuple[str, Nvflare]]:
    return {
        theirs: (name, differs)
        for name in names
        for theirs, differs in _classes(catalog.facts_of(name).nvflare).items()
    }


@functools.cache
def executors() -> Mapping[str, Nvflare]:
    """How each of their executors differs from ours."""
    return _classes(executor.NVFLARE)


def numpy_executor(name: str) -> Nvflare:
    """How their examples' own trainer and validator differ from our program for them."""
    return Nvflare(path=name, renamed=NUMPY_EXECUTORS[name], ignored=_NUMPY_IGNORED)


def _classes(differs: Nvflare | None) -> dict[str, Nvflare]:
    """The classes that a component stands for."""
    if differs is None:
        return {}
    also = {name: replace(differs, defaults={**differs.defaults, **implied}) for name, implied in differs.also.items()}
    return {differs.name: differs, **also}
