"""The global model in a file: what training starts from, what it ends with, and the best in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Literal, Protocol, TypeAlias, runtime_checkable

from fedsag_cli import workspace
from fedsag_cli.model import FLModel

ModelName: TypeAlias = Literal["best", "final"]
"""A trained model: the best of a run, or the one after its last round."""


@runtime_checkable
class WritesFiles(Protocol):
    """A component that writes files into the workspace names them before it writes one."""

    @property
    def files(self) -> Sequence[Path]:
        """Every file it may write. Relative paths are in the server's app folder, its working directory."""


class Persistor(WritesFiles, Protocol):
    """Loads the first global model, and saves the trained ones."""

    def load(self) -> FLModel:
        """The model training starts from. Raises JobError."""

    def save(self, model: FLModel) -> Path:
        """Write the global model, completely or not at all, and return its path. Raises OSError."""

    def save_best(self, model: FLModel) -> Path:
        """Write the best model so far, which is the one *sent* in the best round; return its path. Raises OSError."""

    def get(self, name: ModelName) -> FLModel | None:
        """The best or the final model, as it was written last; None if it was not written. Raises JobError."""


def name_of(persistor: Persistor, name: ModelName) -> str:
    """What results call this model: by its file, if the persistor has a method `model_name` that tells it."""
    called = getattr(persistor, "model_name", None)
    return str(called(name)) if callable(called) else name


def find_checkpoint(name: str) -> Path | None:
    """The file of a checkpoint: at this path, or at this path in custom/."""
    return next((path for path in (Path(name), Path("custom") / name) if path.is_file()), None)


def write_model(path: Path, write: Callable[[IO[bytes]], object]) -> Path:
    """Write a model's file, in a folder that need not be there yet, and say where it is. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    workspace.write_whole(path, write, sync=True)
    return path.resolve()
