"""NVFLARE's model under fedsag's names, and the keys of its meta."""

from typing import Any, TypeAlias

from nvflare.app_common.app_constant import AlgorithmConstants
from nvflare.client import FLModel, ParamsType  # noqa: F401

Params: TypeAlias = dict[str, Any]
NUM_STEPS = "NUM_STEPS_CURRENT_ROUND"
FEDPROX_MU = "fedprox_mu"
SCAFFOLD_CTRL_DIFF = AlgorithmConstants.SCAFFOLD_CTRL_DIFF
SCAFFOLD_CTRL_GLOBAL = AlgorithmConstants.SCAFFOLD_CTRL_GLOBAL
