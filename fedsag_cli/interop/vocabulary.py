"""NVFLARE's classes: the component of fedsag that stands for each, and the classes that need none.

Most of this is in the `facts` of the components. This module has the rest.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from fedsag_cli import catalog
from fedsag_cli.facts import Nvflare
from fedsag_cli.job import executor

AVERAGING_WORKFLOWS = ("FedAvg", "PTFedAvg", "PTFedAvgEarlyStopping", "FedOpt", "Scaffold", "FedAvgLR")
OTHER_WORKFLOWS = ("StatisticsController", "InitializeGlobalWeights")
"""Workflows without an argument that names a task."""
OTHER_EXECUTORS = ("StatisticsExecutor", "FedXGBTreeExecutor")
"""Executors of which fedsag has the program: statistics, and trees of XGBoost."""
UPDATER = "nvflare.app_opt.pt.fedopt.PTFedOptModelShareableGenerator"  # what is inside the workflow FedOpt
FEDERATED_AVERAGING = Nvflare(  # NVFLARE's workflow that averages itself becomes ScatterAndGather with components
    path="nvflare.app_common.workflows.fedavg.FedAvg",
    renamed={"task_name": "train_task_name"},
    ignored=("memory_gc_rounds", "enable_tensor_disk_offload", "task_check_period"),
    expected={
        "ignore_result_error": (None, False),  # a round needs all its clients
        "save_filename": (None, "FL_global_model.pt"),
    },
)
ALL_CLIENTS = 1000  # more clients than any run has, so it means all of them
NOT_NEEDED = {
    "FullModelShareableGenerator": "", "SimpleModelShareableGenerator": "", "SubprocessLauncher": "",
    "ValidationJsonGenerator": "", "CWEResultPrinter": "", "NPFormatter": "",
    "PTFileModelLocator": "pt_persistor_id", "TFFileModelLocator": "tf_persistor_id",
    "NPModelLocator": "", "ListModelLocator": "",
    "CollectAndAssembleAggregator": "assembler_id", "CollectAndAssembleModelAggregator": "assembler_id",
    "XGBModelShareableGenerator": "",
}  # fmt: skip
"""Done by the workflow or the executor. A model locator has the persistor of its models as an argument, an aggregator
that collects its assembler, which is an aggregator here.
"""
COPIED_CLASSES = ("kmeans_assembler.KMeansAssembler", "svm_assembler.SVMAssembler")
"""Class paths of NVFLARE's templates: users copied these classes into their jobs from its examples."""
TREES_COMMAND = ("python3", "-m", "fedsag_cli.client.xgb_trees")
STATISTICS_COMMAND = ("python3", "-m", "fedsag_cli.client.statistics.program")
_MESSAGES = "fedsag sends its messages itself"
_LOGS = "the logs of all processes are in the workspace"
_TIMES = "times and sizes are in report.json"
_EVENTS = "all events are in events.jsonl"
LEFT_OUT = {
    "CellPipe": _MESSAGES,
    "FilePipe": _MESSAGES,
    "MetricRelay": _MESSAGES,
    "ExternalConfigurator": _MESSAGES,
    "ConvertToFedEvent": _MESSAGES,
    "TBWriter": _MESSAGES,
    "MLflowWriter": _MESSAGES,
    "WandBWriter": _MESSAGES,
    "AnalyticsSender": _MESSAGES,
    "MetricsSender": _MESSAGES,
    "DecomposerRegister": _MESSAGES,
    "TensorClientStreamer": _MESSAGES,
    "TensorServerStreamer": _MESSAGES,
    "JobLogReceiver": _LOGS,
    "JobLogStreamer": _LOGS,
    "SiteLogStreamer": _LOGS,
    "LogReceiver": _LOGS,
    "ErrorLogSender": _LOGS,
    "EventRecorder": _EVENTS,
    "ServerEventRecorder": _EVENTS,
    "ClientEventRecorder": _EVENTS,
    "InfoCollector": _EVENTS,
    "MetricsArtifactWriter": "fedsag writes the same files in any case",
    "JobStatsReporter": _TIMES,
    "ModelSizeEstimator": _TIMES,
    "StatsDReporter": _TIMES,
    "JobMetricsCollector": _TIMES,
    "SysMetricsCollector": _TIMES,
    "RemoteMetricsReceiver": _TIMES,
    "ComponentPathAuthorizer": "a run on this machine builds whatever the job names",
}

CONTROLLERS = ("ModelController", "BaseFedAvg", "FedAvg")
CONTROLLER_WORKFLOW = "RunsModelController"
"""Base classes of users' own workflows, and the workflow of fedsag that runs them."""
CLIENT_CONTROLLED = {
    "SwarmServerController": "SwarmClientController",
    "CyclicServerController": "CyclicClientController",
    "CrossSiteEvalServerController": "CrossSiteEvalClientController",
    "ServerSideController": "ClientControllerExecutor",
}
"""NVFLARE's workflows that its clients run, each with the executor of a client that has the other arguments."""
COORDINATION = (
    "task_name_prefix", "start_task_timeout", "configure_task_timeout", "end_workflow_timeout", "task_check_period",
    "job_status_check_interval", "max_status_report_interval", "progress_timeout", "private_p2p", "result_clients",
    "result_clients_policy", "learn_task_check_interval", "learn_task_ack_timeout", "learn_task_abort_timeout",
    "final_result_ack_timeout", "request_to_submit_result_max_wait", "request_to_submit_result_msg_timeout",
    "request_to_submit_result_interval", "max_concurrent_submissions", "get_model_timeout", "max_parallel_actions",
    "memory_gc_rounds", "cuda_empty_cache", "enable_tensor_disk_offload",
)  # fmt: skip
"""Arguments of these by which NVFLARE's clients agree among themselves: the server does that in fedsag."""

NP_TRAINER_COMMAND = ("python3", "-m", "fedsag_cli.client.np_trainer")
LEARNER_COMMAND = ("python3", "-m", "fedsag_cli.client.learner")
LEARNER_EXECUTORS = {
    "LearnerExecutor": "nvflare.app_common.executors.learner_executor.LearnerExecutor",
    "ModelLearnerExecutor": "nvflare.app_common.executors.model_learner_executor.ModelLearnerExecutor",
}
"""Executors of NVFLARE that the program learner has; it also runs those that users derive from its Executor."""
NUMPY_EXECUTORS = {  # an argument becomes a flag of np_trainer, or an argument of the executor
    "NPTrainer": {
        "delta": "--delta",
        "sleep_time": "--sleep_time",
        "model_dir": "--model_dir",
        "model_name": "--model_name",
    },
    "NPValidator": {"sleep_time": "--validate_sleep_time", "validate_task_name": "evaluate_task_name"},
}
_NUMPY_IGNORED = ("epsilon",)
ONLY_MEASURES, SUBMIT_MODEL = "NPValidator", "submit_model"
"""An executor that has no model to submit although it takes that task."""

NAMES = {*CLIENT_CONTROLLED, *NUMPY_EXECUTORS, *OTHER_EXECUTORS, *LEARNER_EXECUTORS, *NOT_NEEDED, *LEFT_OUT}
"""NVFLARE's classes, beside the executors and those that a component of fedsag stands for."""


def components() -> Mapping[str, tuple[str, Nvflare]]:
    """For each class of NVFLARE: the component of fedsag, and how the class differs, with its own defaults."""
    return _components(tuple(catalog.KNOWN))


@functools.cache
def _components(names: Sequence[str]) -> Mapping[str, tuple[str, Nvflare]]:
    return {
        nvflare_name: (name, differs)
        for name in names
        for nvflare_name, differs in _classes(catalog.facts_of(name).nvflare).items()
    }


@functools.cache
def executors() -> Mapping[str, Nvflare]:
    """How each executor of NVFLARE differs from fedsag's."""
    return _classes(executor.NVFLARE)


def is_class(name: str) -> bool:
    """Whether fedsag knows a class of NVFLARE by this name."""
    return name in {*NAMES, *components()} or is_workflow(name) or is_executor(name)


def is_workflow(name: str) -> bool:
    """Whether it runs in the server: a component that asks clients for tasks."""
    known = components().get(name)
    asks = known is not None and bool(catalog.facts_of(known[0]).asks_for)
    return asks or name in (*AVERAGING_WORKFLOWS, *CLIENT_CONTROLLED, *OTHER_WORKFLOWS)


def is_executor(name: str) -> bool:
    return name in {*executors(), *NUMPY_EXECUTORS, *OTHER_EXECUTORS, *CLIENT_CONTROLLED.values()}


def numpy_executor(name: str) -> Nvflare:
    """How NVFLARE's NPTrainer or NPValidator differs from the program np_trainer."""
    return Nvflare(path=name, renamed=NUMPY_EXECUTORS[name], ignored=_NUMPY_IGNORED)


def _classes(differs: Nvflare | None) -> dict[str, Nvflare]:
    """Each class of NVFLARE that a component stands for, and how it differs."""
    if differs is None:
        return {}
    also = {name: replace(differs, defaults={**differs.defaults, **implied}) for name, implied in differs.also.items()}
    return {differs.name: differs, **also}
