"""The global model of a numpy job, in a `.npy` or `.npz` file."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Annotated, Any

import numpy as np

from fedsag_cli.arguments import checked
from fedsag_cli.errors import JobError, TensorError
from fedsag_cli.facts import Facts, Nvflare
from fedsag_cli.model import FLModel
from fedsag_cli.params.encoding import is_payload
from fedsag_cli.persistors import ModelName, find_checkpoint, write_model

_NUMPY_KEY = "numpy_key"
_FIRST_NUMPY_MODEL = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


class NPModelPersistor:
    """One numpy array named "numpy_key" in `models/server.npy`; a model with other or more keys in `models/server.npz`.

    The values of the first model are float32.
    """

    facts = Facts(
        nvflare=Nvflare(
            path="nvflare.app_common.np.np_model_persistor.NPModelPersistor",
            also={"NPFileModelPersistor": {"model_name": "last_global_model.npy"}},  # of clients' workflows
            older_names={"last_global_model_file_name": "model_name"},
            expected={
                "best_global_model_file_name": ("best_global_model.npy",),
                "model_file_name": ("model.npy",),
            },
        )
    )

    @checked
    def __init__(
        self,
        model: Annotated[
            Any,
            "first model: an array as lists, or an object of arrays by name (null: [[1, 2, 3], [4, 5, 6], [7, 8, 9]])",
        ] = None,
        model_dir: Annotated[str, "folder of the models, beside the server's app folder"] = "models",
        model_name: Annotated[
            str, "file of the global model; best_ is added before the name for the best model"
        ] = "server.npy",
        source_ckpt_file_full_name: Annotated[
            str | None, "file with the first model, .npy or .npz, instead of model"
        ] = None,
    ) -> None:
        self._model = model
        one, best = Path("..", model_dir, model_name), Path("..", model_dir, "best_" + model_name)
        self._files = one, one.with_suffix(".npz")
        self._best_files = best, best.with_suffix(".npz")
        self._source = source_ckpt_file_full_name

    @property
    def files(self) -> Sequence[Path]:
        return *self._files, *self._best_files

    def load(self) -> FLModel:
        if self._source:
            path = find_checkpoint(self._source) or Path(self._source)
            return FLModel(params=arrays_in(path, "NPModelPersistor: source_ckpt_file_full_name: "))
        first = _FIRST_NUMPY_MODEL if self._model is None else self._model
        arrays = first if isinstance(first, Mapping) else {_NUMPY_KEY: first}
        try:
            return FLModel(params={name: np.asarray(value, dtype=np.float32) for name, value in arrays.items()})
        except (TypeError, ValueError) as error:
            raise JobError(f"NPModelPersistor: model must be an array of numbers: {error}") from None

    def save(self, model: FLModel) -> Path:
        return self._write(self._files, model)

    def save_best(self, model: FLModel) -> Path:
        return self._write(self._best_files, model)

    def model_name(self, name: ModelName) -> str:
        """The name of the model's file without its ending."""
        return (self._best_files if name == "best" else self._files)[0].stem

    def get(self, name: ModelName) -> FLModel | None:
        written = [path for path in (self._best_files if name == "best" else self._files) if path.exists()]
        return FLModel(params=arrays_in(written[0])) if written else None

    def _write(self, files: tuple[Path, Path], model: FLModel) -> Path:
        params = {name: as_array(name, value) for name, value in (model.params or {}).items()}
        one, several = files
        if set(params) == {_NUMPY_KEY}:
            return write_model(one, lambda file: np.save(file, params[_NUMPY_KEY], allow_pickle=False))
        return write_model(several, lambda file: write_npz(file, params))


def arrays_in(path: Path, argument: str = "NPModelPersistor: ") -> dict[str, Any]:
    """The arrays in a .npy or .npz file. Raises JobError; `argument` names the file there."""
    try:
        loaded = np.load(path, allow_pickle=False)
        return {_NUMPY_KEY: loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise JobError(f"{argument}{path}: {error}") from None


def as_array(name: str, value: Any, persistor: str = "NPModelPersistor") -> Any:
    """The value for a file. Raises TensorError if it is bytes or a text."""
    if is_payload(value):  # as an array it would lose zeros at its end
        raise TensorError(
            f"{persistor}: params: {name!r} is a {type(value).__name__}, and numpy's files have arrays only",
            hint="use a persistor that writes such models",
        )
    return np.asarray(value)


def write_npz(file: IO[bytes], params: Mapping[str, Any]) -> None:
    """As `numpy.savez`, but with any key (savez does not accept "file") and without pickle."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in params.items():
            with archive.open(name + ".npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
