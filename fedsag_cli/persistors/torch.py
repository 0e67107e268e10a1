"""The global model of a torch job, in `.pt` files."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from fedsag_cli.arguments import Regex, checked
from fedsag_cli.errors import JobError
from fedsag_cli.facts import Facts, Nvflare
from fedsag_cli.model import FLModel
from fedsag_cli.persistors import ModelName, find_checkpoint, write_model


class PTFileModelPersistor:
    """A torch model in `.pt` files that `torch.load(weights_only=True)` reads: {"model": state_dict, "train_conf": …}.

    The module's constructor sets the initial weights. After `save`, `load` returns the saved model.
    """

    facts = Facts(
        needs_torch=True,
        nvflare=Nvflare(
            path="nvflare.app_opt.pt.file_model_persistor.PTFileModelPersistor",
            ignored=("allow_numpy_conversion", "load_device"),
            expected={"filter_id": (None, ""), "load_weights_only": (True,)},
        ),
    )

    @checked
    def __init__(
        self,
        model: Annotated[Any, "torch module to train: its class path and arguments"] = None,
        exclude_vars: Annotated[
            str | None, Regex(), "params whose name matches this regular expression are neither sent nor saved"
        ] = None,
        global_model_file_name: Annotated[str, "file of the global model"] = "FL_global_model.pt",
        best_global_model_file_name: Annotated[str, "file of the best model"] = "best_FL_global_model.pt",
        source_ckpt_file_full_name: Annotated[
            str | None, "checkpoint with the initial weights: a file this persistor wrote, or a state dict"
        ] = None,
    ) -> None:
        self._model = model
        self._model_name = "" if model is None else type(model).__name__
        self._first: dict[str, Any] | None = None
        self._excluded = re.compile(exclude_vars) if exclude_vars else None
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
        return FLModel(
            params=self._first
        )  # the same dict: the server replaces its values by mapped ones, so memory holds them once

    def save(self, model: FLModel) -> Path:
        path = self._write(self._file, model)
        self._first, self._source = None, str(path)  # frees the memory of the initial weights
        return path

    def save_best(self, model: FLModel) -> Path:
        return self._write(self._best_file, model)

    def model_name(self, name: ModelName) -> str:
        """The name of the model's file."""
        return (self._best_file if name == "best" else self._file).name

    def get(self, name: ModelName) -> FLModel | None:
        path = self._best_file if name == "best" else self._file
        return FLModel(params=state_in(path)) if path.exists() else None

    def _from_module(self) -> dict[str, Any]:
        if not hasattr(self._model, "state_dict"):
            raise JobError(
                f"PTFileModelPersistor: model must be a torch module, not {self._model!r}",
                hint='give model { path = "net.Net" }, a class in custom/, or source_ckpt_file_full_name',
            )
        return dict(self._model.state_dict())

    def _from_checkpoint(self, name: str) -> dict[str, Any]:
        path = find_checkpoint(name)
        if path is None:
            raise JobError(f"PTFileModelPersistor: source_ckpt_file_full_name: there is no file {name!r}")
        return state_in(path)

    def _write(self, path: Path, model: FLModel) -> Path:
        import torch

        tensors = ((name, as_tensor(value)) for name, value in (model.params or {}).items())
        saved: OrderedDict[str, Any] = OrderedDict(model=OrderedDict(tensors))
        if self._model_name:
            saved["train_conf"] = {"train": {"model": self._model_name}}
        return write_model(path, lambda file: torch.save(saved, file))


def state_in(path: Path, argument: str = "PTFileModelPersistor: ") -> dict[str, Any]:
    """The state dict in a file. Raises JobError; `argument` names the file there."""
    import torch

    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch raises many kinds of error for a file that is not a checkpoint
        raise JobError(f"{argument}{path} is not a checkpoint that contains only tensors: {error}") from None
    state = saved.get("model", saved) if isinstance(saved, dict) else saved
    if not isinstance(state, Mapping):
        raise JobError(f"{argument}{path} must contain a state dict, not a {type(state).__name__}")
    return dict(state)


def as_tensor(value: Any) -> Any:
    """A numpy array or number as a tensor: the file is read as one that has only tensors."""
    import torch

    return torch.as_tensor(np.array(value)) if isinstance(value, np.ndarray | np.generic) else value


def _without(params: dict[str, Any], pattern: re.Pattern[str] | None) -> dict[str, Any]:
    return {name: value for name, value in params.items() if not (pattern and pattern.search(name))}
