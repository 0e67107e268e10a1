"""NVFLARE's decorators under fedsag's names."""

from nvflare.client.decorator import evaluate, train  # noqa: F401
