"""Constants that scripts for NVFLARE import, with NVFLARE's names and values."""

from typing import Any

from fedsag_cli.model import FEDPROX_MU, NUM_STEPS, SCAFFOLD_CTRL_DIFF, SCAFFOLD_CTRL_GLOBAL

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


FLMetaKey = MetaKey


class AlgorithmConstants:
    """Keys that an algorithm adds to a model's `meta`."""

    FEDPROX_MU = FEDPROX_MU
    SCAFFOLD_CTRL_DIFF = SCAFFOLD_CTRL_DIFF
    SCAFFOLD_CTRL_GLOBAL = SCAFFOLD_CTRL_GLOBAL


class AppConstants:
    """Names of rounds and tasks."""

    CURRENT_ROUND = "current_round"
    START_ROUND = "start_round"
    NUM_ROUNDS = "num_rounds"
    TASK_TRAIN = "train"
    TASK_VALIDATION = "validate"
    TASK_SUBMIT_MODEL = "submit_model"
    SUBMIT_MODEL_NAME = "submit_model_name"


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
