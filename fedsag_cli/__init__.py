"""fedsag: federated learning jobs from the command line; `simulate` runs one from Python, as in a notebook."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedsag_cli.notebook import Run as Run
    from fedsag_cli.notebook import simulate as simulate

__version__ = "0.1.0"

_OF_NOTEBOOK = ("Run", "simulate")


def __getattr__(name: str) -> Any:
    """Only who asks for a run from Python imports what it needs: a training script does not."""
    if name in _OF_NOTEBOOK:
        import importlib

        return getattr(importlib.import_module("fedsag_cli.notebook"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_OF_NOTEBOOK})
