"""Names that NVFLARE's scripts import beside its Client API, with the values that travel."""

from fedsag_cli.messages import NUM_STEPS


class ModelName:
    """Which of its models a site is asked for: `meta["submit_model_name"]`."""

    BEST_MODEL = "best_model"
    FINAL_MODEL = "final_model"


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
