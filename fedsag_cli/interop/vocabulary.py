"""Which component of ours stands for which of NVFLARE's, and what is done with the others."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Part:
    """Our component for one of theirs.

    `usual`: their arguments we need not have, with the values that say so. `renamed`: how we call others. `given`: what
    theirs does when it is told nothing.
    """

    ours: str
    usual: Mapping[str, Collection[Any]] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)


ANY: Collection[Any] = ()
KINDS = ("WEIGHT_DIFF", "WEIGHTS")
MORE_THAN_THERE_ARE = 1000  # counts as all
AVERAGES = Part("FedAvg", {"expected_data_kind": KINDS})
SELECTS = Part("IntimeModelSelector", {"validation_metric_name": ("initial_metrics",)})
WORKFLOWS = {
    "ScatterAndGather": Part(
        "ScatterAndGather",
        usual={
            "shareable_generator_id": ANY,
            "task_check_period": ANY,
            "snapshot_every_n_rounds": ANY,
            "memory_gc_rounds": ANY,
            "enable_tensor_disk_offload": ANY,
            "ignore_result_error": (None,),
        },
        given={"min_clients": MORE_THAN_THERE_ARE, "aggregator_id": "aggregator"},
    ),
}
FEDERATED_AVERAGING = Part(  # their workflow that averages by itself
    "ScatterAndGather",
    usual={
        "memory_gc_rounds": ANY,
        "enable_tensor_disk_offload": ANY,
        "save_filename": ANY,
    },
    renamed={"task_name": "train_task_name"},
)
AVERAGE_BY_THEMSELVES = ("FedAvg", "PTFedAvg", "PTFedAvgEarlyStopping")
PARTS = {
    "InTimeAccumulateWeightedAggregator": AVERAGES,
    "AccumulateWeightedAggregator": AVERAGES,
    "PTFileModelPersistor": Part(
        "PTFileModelPersistor",
        {"filter_id": (None, ""), "load_weights_only": (True,), "allow_numpy_conversion": ANY, "load_device": ANY},
    ),
    "NPModelPersistor": Part("NPModelPersistor"),
    "IntimeModelSelector": SELECTS,
    "IntimeModelSelectionHandler": SELECTS,
    "ExcludeVars": Part("ExcludeVars", {"data_kinds": (None, [*KINDS], [*reversed(KINDS)])}),
    "TBAnalyticsReceiver": Part("TBAnalyticsReceiver", {"events": ANY}),
    "MLflowReceiver": Part("MLflowReceiver", {"events": ANY, "buffer_flush_time": ANY}, renamed={"kwargs": "kw_args"}),
    "WandBReceiver": Part("WandBReceiver", {"events": ANY, "process_timeout": ANY}, renamed={"kwargs": "wandb_args"}),
}
DONE_ANYWAY = {  # by the workflow, by the executor; the others only serve a workflow, which is what is missed
    "FullModelShareableGenerator", "SubprocessLauncher",
    "ValidationJsonGenerator", "PTFileModelLocator", "NPModelLocator", "NPFormatter",
}  # fmt: skip
TRACKERS = {"TBAnalyticsReceiver", "MLflowReceiver", "WandBReceiver"}
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

EXECUTOR = "ClientAPIExecutor"
EXTERNAL = {"execution_mode": "external_process"}
IN_PROCESS = {"execution_mode": "in_process"}
NUMPY, PYTORCH = {"params_exchange_format": "numpy"}, {"params_exchange_format": "pytorch"}
PIPES = dict.fromkeys(
    [
        "pipe_id", "launcher_id", "task_wait_timeout", "task_wait_time", "last_result_transfer_timeout",
        "external_execution_wait", "external_pre_init_timeout", "peer_read_timeout", "monitor_interval",
        "read_interval", "heartbeat_interval", "heartbeat_timeout", "workers", "config_file_name", "resend_interval",
        "max_resends", "result_poll_interval", "result_pull_interval", "log_pull_interval", "pipe_channel_name",
        "download_complete_timeout", "shutdown_timeout", "stop_grace_period", "result_wait_timeout",
        "submit_result_timeout", "server_expected_format", "attach_id", "attach_timeout", "allow_reconnect",
        "allow_insecure_attach",
    ],
    ANY,
) | dict.fromkeys(["from_nvflare_converter_id", "to_nvflare_converter_id"], (None, ""))  # fmt: skip
EXECUTORS = {
    EXECUTOR: Part(EXECUTOR, PIPES),
    "ClientAPILauncherExecutor": Part(EXECUTOR, PIPES, given=EXTERNAL | NUMPY),
    "PTClientAPILauncherExecutor": Part(EXECUTOR, PIPES, given=EXTERNAL | PYTORCH),
    "InProcessClientAPIExecutor": Part(EXECUTOR, PIPES, given=IN_PROCESS | NUMPY),
    "PTInProcessClientAPIExecutor": Part(EXECUTOR, PIPES, given=IN_PROCESS | PYTORCH),
}
EXECUTOR_ARGS = {
    "command", "task_script_path", "task_script_args", "launch_once", "launch_timeout", "train_task_name",
    "evaluate_task_name", "submit_model_task_name", "train_with_evaluation", "params_exchange_format",
    "params_transfer_type", "memory_gc_rounds", "cuda_empty_cache", "execution_mode",
}  # fmt: skip
NUMPY_PROGRAM = ("python3", "-m", "fedsag_cli.client.np_trainer")
NUMPY_EXECUTORS = {  # an argument of theirs is a flag of our program, or an argument of our executor
    "NPTrainer": Part(
        EXECUTOR,
        renamed={
            "delta": "--delta",
            "sleep_time": "--sleep_time",
            "model_dir": "--model_dir",
            "model_name": "--model_name",
        },
    ),
    "NPValidator": Part(
        EXECUTOR,
        usual={"epsilon": ANY},
        renamed={"sleep_time": "--validate_sleep_time", "validate_task_name": "evaluate_task_name"},
    ),
}
BY_NAME = {
    *WORKFLOWS, *PARTS, *DONE_ANYWAY, *LEFT_OUT, *EXECUTORS, *NUMPY_EXECUTORS,
}  # fmt: skip
