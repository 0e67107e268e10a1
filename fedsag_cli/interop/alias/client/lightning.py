"""NVFLARE's Lightning client under the names of fedsag's.

It needs `pytorch_lightning`, also for trainers of `lightning.pytorch`. Without that NVFLARE's module is empty: the
import here says so.
"""

import pytorch_lightning  # noqa: F401
from nvflare.client import is_evaluate, is_submit_model, is_train, send  # noqa: F401
from nvflare.client.api_context import APIContext  # noqa: F401
from nvflare.client.lightning import *  # noqa: F403
from nvflare.client.lightning import logger as ClientLogger  # noqa: F401, N812
