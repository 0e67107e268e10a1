"""NVFLARE's Lightning client under fedsag's names.

It needs `pytorch_lightning`, even for trainers of `lightning.pytorch`: NVFLARE's module is empty without it. The import
below fails if it is missing.
"""

import pytorch_lightning  # noqa: F401
from nvflare.client import is_evaluate, is_submit_model, is_train, send  # noqa: F401
from nvflare.client.api_context import APIContext  # noqa: F401
from nvflare.client.lightning import *  # noqa: F403
from nvflare.client.lightning import logger as ClientLogger  # noqa: F401, N812
