"""NVFLARE's decorators under the names of fedsag's."""

from nvflare.client.decorator import evaluate, train  # noqa: F401
