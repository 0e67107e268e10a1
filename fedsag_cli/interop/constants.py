"""Names that NVFLARE's scripts import beside its Client API, with the values that travel."""


class ModelName:
    """Which of its models a site is asked for: `meta["submit_model_name"]`."""

    BEST_MODEL = "best_model"
    FINAL_MODEL = "final_model"
