"""NVFLARE's client for Hugging Face under fedsag's names. Each client then has its own base model."""

from collections.abc import Callable
from typing import Any

from nvflare.client.api_context import APIContext  # noqa: F401
from nvflare.client.hf import *  # noqa: F403


def shared(build: Callable[[], Any], name: str = "base") -> Any:  # noqa: ARG001
    return build()


def adapter_state(model: Any) -> dict[str, Any]:
    from peft import get_peft_model_state_dict

    return dict(get_peft_model_state_dict(model, save_embedding_layers=False))
