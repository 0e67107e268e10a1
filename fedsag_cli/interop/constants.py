"""Names that NVFLARE's scripts import beside its Client API, with the values that travel."""

from typing import Any

from fedsag_cli.model import FEDPROX_MU, NUM_STEPS

__all__ = [
    "AlgorithmConstants",
    "AppConstants",
    "DefaultCheckpointFileName",
    "FLMetaKey",
    "FLModelConst",
    "MetaKey",
    "ModelName",
    "NPConstants",
    "ValidateType",
    "get_lr_values",
]


class ModelName:
    """Which of its models a site is asked for: `meta["submit_model_name"]`."""

    BEST_MODEL = "best_model"
    FINAL_MODEL = "final_model"


class ValidateType:
    """What a site is to validate: `meta["validate_type"]`."""

    BEFORE_TRAIN_VALIDATE = "before_train_validate"
    MODEL_VALIDATE = "model_validate"


class MetaKey:
    """What stands in a model's `meta`."""

    NUM_STEPS_CURRENT_ROUND = NUM_STEPS
    CURRENT_ROUND = "current_round"
    TOTAL_ROUNDS = "total_rounds"
    INITIAL_METRICS = "initial_metrics"
    VALIDATE_TYPE = "validate_type"
    SUBMIT_MODEL_NAME = "submit_model_name"
    JOB_ID = "job_id"
    SITE_NAME = "site_name"


FLMetaKey = MetaKey


class AlgorithmConstants:
    """What an algorithm adds to a model's `meta`."""

    FEDPROX_MU = FEDPROX_MU
    SCAFFOLD_CTRL_DIFF = "scaffold_c_diff"
    SCAFFOLD_CTRL_GLOBAL = "scaffold_c_global"


class AppConstants:
    """How rounds and tasks are called."""

    CURRENT_ROUND = "current_round"
    START_ROUND = "start_round"
    NUM_ROUNDS = "num_rounds"
    TASK_TRAIN = "train"
    TASK_VALIDATION = "validate"
    TASK_SUBMIT_MODEL = "submit_model"
    SUBMIT_MODEL_NAME = "submit_model_name"


class DefaultCheckpointFileName:
    """What the files of a torch model are called."""

    GLOBAL_MODEL = "FL_global_model.pt"
    BEST_GLOBAL_MODEL = "best_FL_global_model.pt"


class FLModelConst:
    """What an FLModel has, by name."""

    PARAMS_TYPE = "params_type"
    PARAMS = "params"
    OPTIMIZER_PARAMS = "optimizer_params"
    METRICS = "metrics"
    CURRENT_ROUND = "current_round"
    START_ROUND = "start_round"
    TOTAL_ROUNDS = "total_rounds"
    META = "meta"


class NPConstants:
    """How a numpy job calls its one array."""

    NUMPY_KEY = "numpy_key"


def get_lr_values(optimizer: Any) -> list[float]:
    """The learning rate of each group of a torch optimizer's parameters."""
    return [group["lr"] for group in optimizer.param_groups]
