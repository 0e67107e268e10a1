"""The global model in a file: what training starts from, what it ends with, and the best in between."""

from __future__ import annotations

import os
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

import numpy as np

from fedsag_cli.errors import JobError
from fedsag_cli.messages import FLModel

_NUMPY_KEY = "numpy_key"
_FIRST_NUMPY_MODEL = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


@runtime_checkable
class WritesFiles(Protocol):
    """A component that writes files into the workspace says which, before it writes one."""

    @property
    def files(self) -> Sequence[Path]:
        """Every file it may write. Relative paths lie in the server's app folder, its working directory."""


class Persistor(WritesFiles, Protocol):
    """The way from a file to the model and back."""

    def load(self) -> FLModel:
        """The model training starts from. Raises JobError."""

    def save(self, model: FLModel) -> Path:
        """Write the global model, whole or not at all, and say where. Raises OSError."""

    def save_best(self, model: FLModel) -> Path:
        """Write the best model so far, which is the one *sent* in the best round. Raises OSError."""


class PTFileModelPersistor:
    """A torch model in `.pt` files that `torch.load(weights_only=True)` reads: {"model": state_dict, "train_conf": …}.

    `model` is a torch module (a job gives its class path), which draws the initial weights, or None where
    `source_ckpt_file_full_name` names a checkpoint to start from: such a file, or a bare state dict.
    `exclude_vars` is a regular expression: keys in which it is found are neither sent nor saved. Loaded after it has
    saved, it gives what it saved.
    """

    def __init__(
        self,
        model: Any = None,
        exclude_vars: str | None = None,
        global_model_file_name: str = "FL_global_model.pt",
        best_global_model_file_name: str = "best_FL_global_model.pt",
        source_ckpt_file_full_name: str | None = None,
    ) -> None:
        self._model = model
        self._model_name = "" if model is None else type(model).__name__
        self._first: dict[str, Any] | None = None
        self._excluded = _pattern(exclude_vars)
        self._file = Path(global_model_file_name)
        self._best_file = Path(best_global_model_file_name)
        self._source = source_ckpt_file_full_name

    @property
    def files(self) -> Sequence[Path]:
        return self._file, self._best_file

    def load(self) -> FLModel:
        if self._first is None:
            state = self._from_checkpoint(self._source) if self._source else self._from_module()
            self._first, self._model = _without(state, self._excluded), None
        return FLModel(params=self._first)  # the same dict: who exchanges its values has exchanged ours

    def save(self, model: FLModel) -> Path:
        path = self._write(self._file, model)
        self._first, self._source = None, str(path)  # the first weights' memory is let go of
        return path

    def save_best(self, model: FLModel) -> Path:
        return self._write(self._best_file, model)

    def _from_module(self) -> dict[str, Any]:
        if not hasattr(self._model, "state_dict"):
            raise JobError(
                f"PTFileModelPersistor: model is {self._model!r}, no torch module",
                hint='give model { path = "net.Net" }, a class in custom/, or source_ckpt_file_full_name',
            )
        return dict(self._model.state_dict())

    def _from_checkpoint(self, name: str) -> dict[str, Any]:
        import torch

        path = _found(name)
        if path is None:
            raise JobError(f"PTFileModelPersistor: source_ckpt_file_full_name: there is no file {name!r}")
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            # torch raises half a dozen kinds for a file that is no checkpoint
            raise JobError(f"PTFileModelPersistor: {path} is no checkpoint of tensors alone: {error}") from None
        state = saved.get("model", saved) if isinstance(saved, dict) else saved
        if not isinstance(state, Mapping):
            raise JobError(f"PTFileModelPersistor: {path} holds a {type(state).__name__}, no state dict")
        return dict(state)

    def _write(self, path: Path, model: FLModel) -> Path:
        import torch

        saved: OrderedDict[str, Any] = OrderedDict(model=OrderedDict(model.params or {}))
        if self._model_name:
            saved["train_conf"] = {"train": {"model": self._model_name}}
        return _write_whole(path, lambda file: torch.save(saved, file))


class NPModelPersistor:
    """One numpy array in `models/server.npy`; a model of several keys, or of another name, in `models/server.npz`.

    `model_dir` lies beside the server's app folder, where NVFLARE has it.
    `model` is the array to start from, as lists; `source_ckpt_file_full_name` names a `.npy` or `.npz` file instead.
    """

    def __init__(
        self,
        model: Any = None,
        model_dir: str = "models",
        model_name: str = "server.npy",
        source_ckpt_file_full_name: str | None = None,
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
            return FLModel(params=self._from_file(_found(self._source) or Path(self._source)))
        first = _FIRST_NUMPY_MODEL if self._model is None else self._model
        arrays = first if isinstance(first, Mapping) else {_NUMPY_KEY: first}
        try:
            return FLModel(params={name: np.asarray(value, dtype=np.float32) for name, value in arrays.items()})
        except (TypeError, ValueError) as error:
            raise JobError(f"NPModelPersistor: model is no array of numbers: {error}") from None

    def save(self, model: FLModel) -> Path:
        return self._write(self._files, model)

    def save_best(self, model: FLModel) -> Path:
        return self._write(self._best_files, model)

    def _from_file(self, path: Path) -> dict[str, Any]:
        try:
            found = np.load(path, allow_pickle=False)
            return {_NUMPY_KEY: found} if isinstance(found, np.ndarray) else dict(found)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise JobError(f"NPModelPersistor: source_ckpt_file_full_name: {path}: {error}") from None

    def _write(self, files: tuple[Path, Path], model: FLModel) -> Path:
        params = {name: np.asarray(value) for name, value in (model.params or {}).items()}
        one, several = files
        if set(params) == {_NUMPY_KEY}:
            return _write_whole(one, lambda file: np.save(file, params[_NUMPY_KEY], allow_pickle=False))
        return _write_whole(several, lambda file: _write_npz(file, params))


def _found(name: str) -> Path | None:
    """A checkpoint's file: as it is named, or in custom/."""
    return next((path for path in (Path(name), Path("custom") / name) if path.is_file()), None)


def _write_whole(path: Path, write: Callable[[IO[bytes]], None]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return path.resolve()


def _write_npz(file: IO[bytes], params: Mapping[str, Any]) -> None:
    """What `numpy.savez` writes; that takes no key called "file", and would pickle."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in params.items():
            with archive.open(name + ".npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _pattern(exclude_vars: str | None) -> re.Pattern[str] | None:
    try:
        return re.compile(exclude_vars) if exclude_vars else None
    except re.error as error:
        raise JobError(f"exclude_vars: {exclude_vars!r} is not a regular expression: {error}") from None


def _without(params: dict[str, Any], pattern: re.Pattern[str] | None) -> dict[str, Any]:
    return {name: value for name, value in params.items() if not (pattern and pattern.search(name))}
