"""NVFLARE's client for Hugging Face under fedsag's names."""

from nvflare.client.api_context import APIContext  # noqa: F401
from nvflare.client.hf import *  # noqa: F403
