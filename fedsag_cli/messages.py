"""The former home of `FLModel`, for jobs that import it from here; new jobs import `fedsag_cli.model`."""

from fedsag_cli.model import FLModel, ParamsType, Reply, Task

__all__ = ["FLModel", "ParamsType", "Reply", "Task"]
