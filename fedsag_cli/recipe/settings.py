"""The words of NVFLARE's job scripts that choose how a script and the server exchange a model."""

from __future__ import annotations

from enum import Enum


class ExchangeFormat(str, Enum):
    RAW = "raw"
    PYTORCH = "pytorch"
    NUMPY = "numpy"
    KERAS_LAYER_WEIGHTS = "keras_layer_weights"


class TransferType(str, Enum):
    FULL = "FULL"
    DIFF = "DIFF"


class FrameworkType(str, Enum):
    RAW = "raw"
    NUMPY = "numpy"
    PYTORCH = "pytorch"
    TENSORFLOW = "tensorflow"


class FilterType:
    TASK_RESULT = "TASK_RESULT"
    TASK_DATA = "TASK_DATA"


class JobMetaKey(str, Enum):
    """The keys of a job's meta file that a script may set."""

    SCOPE = "scope"
    RESOURCE_SPEC = "resource_spec"
    JOB_LAUNCHER_SPEC = "launcher_spec"
    CUSTOM_PROPS = "custom_props"
