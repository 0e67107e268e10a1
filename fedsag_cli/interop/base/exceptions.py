"""The texts of an exception that users' components log. Nothing is left out: the logs stay on this machine."""

from __future__ import annotations

import logging
import traceback

__all__ = ["secure_format_exception", "secure_format_traceback", "secure_log_traceback"]


def secure_format_exception(e: BaseException) -> str:
    """Its class and its message."""
    return f"{type(e).__name__}: {e}"


def secure_format_traceback() -> str:
    """The traceback of the exception that is being handled."""
    return traceback.format_exc()


def secure_log_traceback(logger: logging.Logger | None = None) -> None:
    """Log it, with the root logger if there is no other."""
    (logger or logging.getLogger()).error(secure_format_traceback())
