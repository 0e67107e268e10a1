"""NVFLARE's Lightning client under the name of fedsag's. It takes trainers of `pytorch_lightning`."""

from nvflare.client.lightning import *  # noqa: F403
