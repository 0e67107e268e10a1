"""Constants that scripts for NVFLARE import, with NVFLARE's names and values."""

from typing import Any

from fedsag_cli.model import FEDPROX_MU, NUM_STEPS, SCAFFOLD_CTRL_DIFF, SCAFFOLD_CTRL_GLOBAL

__all__ = [
    "AlgorithmConstants",
    "AppConstants",
    "DefaultCheckpointFileName",
    "EventType",
    "FLContextKey",
    "FLMetaKey",
    "FLModelConst",
    "MetaKey",
    "ModelName",
    "NPConstants",
    "ReservedKey",
    "ReturnCode",
    "ValidateType",
    "get_lr_values",
]


class ModelName:
    """The values of `meta["submit_model_name"]`: the model that a site must send."""

    BEST_MODEL = "best_model"
    FINAL_MODEL = "final_model"


class ValidateType:
    """The values of `meta["validate_type"]`: the model that a site must validate."""

    BEFORE_TRAIN_VALIDATE = "before_train_validate"
    MODEL_VALIDATE = "model_validate"


class MetaKey:
    """Keys of a model's `meta`."""

    NUM_STEPS_CURRENT_ROUND = NUM_STEPS
    CURRENT_ROUND = "current_round"
    TOTAL_ROUNDS = "total_rounds"
    INITIAL_METRICS = "initial_metrics"
    VALIDATE_TYPE = "validate_type"
    SUBMIT_MODEL_NAME = "submit_model_name"
    JOB_ID = "job_id"
    SITE_NAME = "site_name"
    PROCESSED_ALGORITHM = "PROCESSED_ALGORITHM"
    PROCESSED_KEYS = "PROCESSED_KEYS"
    FILTER_HISTORY = "filter_history"
    CONFIGS = "configs"
    START_ROUND = "start_round"


FLMetaKey = MetaKey


class AlgorithmConstants:
    """Keys that an algorithm adds to a model's `meta`."""

    FEDPROX_MU = FEDPROX_MU
    SCAFFOLD_CTRL_DIFF = SCAFFOLD_CTRL_DIFF
    SCAFFOLD_CTRL_GLOBAL = SCAFFOLD_CTRL_GLOBAL


class AppConstants:
    """Names of rounds, tasks, components, and of what is sent with a task."""

    CURRENT_ROUND = "current_round"
    START_ROUND = "start_round"
    NUM_ROUNDS = "num_rounds"
    CONTRIBUTION_ROUND = "contribution_round"
    TASK_TRAIN = "train"
    TASK_VALIDATION = "validate"
    TASK_SUBMIT_MODEL = "submit_model"
    TASK_GET_WEIGHTS = "get_weights"
    TASK_CONFIGURE = "configure"
    SUBMIT_MODEL_NAME = "submit_model_name"
    VALIDATE_TYPE = "_validate_type"
    MODEL_OWNER = "_model_owner_"
    GLOBAL_MODEL = "global_model"
    AGGREGATION_RESULT = "_aggregation_result"
    DEFAULT_MODEL_DIR = "models"
    DEFAULT_AGGREGATOR_ID = "aggregator"
    DEFAULT_PERSISTOR_ID = "persistor"
    DEFAULT_SHAREABLE_GENERATOR_ID = "shareable_generator"
    DEFAULT_MODEL_LOCATOR_ID = "model_locator"
    DEFAULT_FORMATTER_ID = "formatter"
    CROSS_VAL_DIR = "cross_site_val"
    CLIENT_UNKNOWN = "unknown"


class ReturnCode:
    """How an executor says what became of its task."""

    OK = "OK"
    BAD_PEER_CONTEXT = "BAD_PEER_CONTEXT"
    BAD_REQUEST_DATA = "BAD_REQUEST_DATA"
    BAD_TASK_DATA = "BAD_TASK_DATA"
    COMMUNICATION_ERROR = "COMMUNICATION_ERROR"
    ERROR = "ERROR"
    EXECUTION_EXCEPTION = "EXECUTION_EXCEPTION"
    EXECUTION_RESULT_ERROR = "EXECUTION_RESULT_ERROR"
    HANDLER_EXCEPTION = "HANDLER_EXCEPTION"
    MISSING_PEER_CONTEXT = "MISSING_PEER_CONTEXT"
    RUN_MISMATCH = "RUN_MISMATCH"
    TASK_ABORTED = "TASK_ABORTED"
    TASK_DATA_FILTER_ERROR = "TASK_DATA_FILTER_ERROR"
    TASK_RESULT_FILTER_ERROR = "TASK_RESULT_FILTER_ERROR"
    TASK_UNKNOWN = "TASK_UNKNOWN"
    TASK_UNSUPPORTED = "TASK_UNSUPPORTED"
    TOPIC_UNKNOWN = "TOPIC_UNKNOWN"
    MODEL_UNRECOGNIZED = "MODEL_UNRECOGNIZED"
    VALIDATE_TYPE_UNKNOWN = "VALIDATE_TYPE_UNKNOWN"
    EMPTY_RESULT = "EMPTY_RESULT"
    UNSAFE_JOB = "UNSAFE_JOB"


class ReservedKey:
    """Names of an FLContext's properties."""

    RUN_NUM = "__run_num__"
    IDENTITY_NAME = "__identity_name__"
    CLIENT_NAME = "__client_name__"
    TASK_NAME = "__task_name__"
    WORKSPACE_ROOT = "__workspace_root__"
    APP_ROOT = "__app_root__"
    WORKSPACE_OBJECT = "__workspace_object__"
    ARGS = "__args__"
    ENGINE = "__engine__"
    RC = "__rc__"


class FLContextKey:
    """The same names, under which components ask for them."""

    CURRENT_RUN = ReservedKey.RUN_NUM
    CURRENT_JOB_ID = ReservedKey.RUN_NUM
    CLIENT_NAME = ReservedKey.CLIENT_NAME
    TASK_NAME = ReservedKey.TASK_NAME
    WORKSPACE_ROOT = ReservedKey.WORKSPACE_ROOT
    APP_ROOT = ReservedKey.APP_ROOT
    WORKSPACE_OBJECT = ReservedKey.WORKSPACE_OBJECT
    ARGS = ReservedKey.ARGS


class EventType:
    """The events that a component may hear of, in `handle_event`. fedsag fires the first five of them."""

    ABOUT_TO_START_RUN = "_about_to_start_run"
    START_RUN = "_start_run"
    BEFORE_TASK_EXECUTION = "_before_task_execution"
    AFTER_TASK_EXECUTION = "_after_task_execution"
    END_RUN = "_end_run"
    ABORT_TASK = "_abort_task"
    ABOUT_TO_END_RUN = "_about_to_end_run"
    START_WORKFLOW = "_start_workflow"
    END_WORKFLOW = "_end_workflow"
    FATAL_SYSTEM_ERROR = "_fatal_system_error"


class DefaultCheckpointFileName:
    """The file names of torch models."""

    GLOBAL_MODEL = "FL_global_model.pt"
    BEST_GLOBAL_MODEL = "best_FL_global_model.pt"


class FLModelConst:
    """The names of the fields of an FLModel."""

    PARAMS_TYPE = "params_type"
    PARAMS = "params"
    OPTIMIZER_PARAMS = "optimizer_params"
    METRICS = "metrics"
    CURRENT_ROUND = "current_round"
    START_ROUND = "start_round"
    TOTAL_ROUNDS = "total_rounds"
    META = "meta"


class NPConstants:
    """The name of the array of a numpy job."""

    NUMPY_KEY = "numpy_key"


def get_lr_values(optimizer: Any) -> list[float]:
    """The learning rate of each parameter group of a torch optimizer."""
    return [group["lr"] for group in optimizer.param_groups]
