"""A model of XGBoost in a JSON file, which `xgboost.Booster(model_file="xgboost_model.json")` reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from fedsag_cli.arguments import checked
from fedsag_cli.errors import JobError
from fedsag_cli.facts import Facts, Nvflare
from fedsag_cli.model import FLModel
from fedsag_cli.persistors import ModelName, find_checkpoint, write_model

_MODEL_DATA = "model_data"


class XGBModelPersistor:
    """Writes the bytes of the param `model_data`. Without a file to begin with, the first model has no params."""

    facts = Facts(
        nvflare=Nvflare(
            path="nvflare.app_opt.xgboost.tree_based.model_persistor.XGBModelPersistor", ignored=("load_as_dict",)
        )
    )

    @checked
    def __init__(
        self,
        save_name: Annotated[
            str, "file of the model; best_ is added before the name for the best model"
        ] = "xgboost_model.json",
        source_ckpt_file_full_name: Annotated[str | None, "file with the first model"] = None,
    ) -> None:
        self._file = Path(save_name)
        self._best_file = self._file.with_name("best_" + self._file.name)
        self._source = source_ckpt_file_full_name

    @property
    def files(self) -> Sequence[Path]:
        return self._file, self._best_file

    def load(self) -> FLModel:
        if not self._source:
            return FLModel(params={})
        path = find_checkpoint(self._source)
        if path is None:
            raise JobError(f"XGBModelPersistor: source_ckpt_file_full_name: there is no file {self._source!r}")
        return FLModel(params={_MODEL_DATA: path.read_bytes()})

    def save(self, model: FLModel) -> Path:
        return _write(self._file, model)

    def save_best(self, model: FLModel) -> Path:
        return _write(self._best_file, model)

    def get(self, name: ModelName) -> FLModel | None:
        path = self._best_file if name == "best" else self._file
        return FLModel(params={_MODEL_DATA: path.read_bytes()}) if path.exists() else None


def _write(path: Path, model: FLModel) -> Path:
    data: Any = (model.params or {}).get(_MODEL_DATA, b"")
    return write_model(path, lambda file: file.write(data))
