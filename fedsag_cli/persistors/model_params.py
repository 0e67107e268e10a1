"""The params of models that other libraries make, such as scikit-learn's, in a `.npz` file.

params = numpy.load("model_param.npz")
model = SGDClassifier(loss="log_loss")
model.classes_, model.coef_, model.intercept_ = numpy.array([0, 1]), params["coef"], params["intercept"]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from fedsag_cli.arguments import checked
from fedsag_cli.errors import JobError
from fedsag_cli.facts import Facts, Nvflare
from fedsag_cli.model import INITIAL_PARAMS, FLModel
from fedsag_cli.persistors import ModelName, write_model
from fedsag_cli.persistors.numpy import arrays_in, as_array, write_npz


class ModelParamPersistor:
    """Begins with settings instead of params: a client's first model has them as its `params`, and makes a model.

    Every model has them in its `meta["initial_params"]`. The clients' first updates bring the params. NVFLARE writes a
    pickle; here the file has arrays only, one for each name.
    """

    facts = Facts(
        nvflare=Nvflare(path="nvflare.app_opt.sklearn.joblib_model_param_persistor.JoblibModelParamPersistor")
    )

    @checked
    def __init__(
        self,
        initial_params: Annotated[
            Mapping[str, Any] | None, "settings from which a client makes its first model"
        ] = None,
        save_name: Annotated[
            str, "file of the params, with the ending .npz; best_ is added before it"
        ] = "model_param.npz",
        model_path: Annotated[str | None, ".npz file with the first params"] = None,
    ) -> None:
        self._settings = dict(initial_params or {})
        path = Path(save_name).with_suffix(".npz")
        self._file, self._best_file = path, path.with_name("best_" + path.name)
        self._source = model_path or self._settings.pop("model_path", None)
        if not self._settings and not self._source:
            raise JobError("ModelParamPersistor needs initial_params or model_path: there is no model to begin with")
        if self._source and Path(self._source).suffix != ".npz":
            raise JobError(
                f"ModelParamPersistor: model_path must be a .npz file, not {self._source!r}",
                hint="a pickle can run any code: numpy.savez('model.npz', **params) writes params that are arrays",
            )

    @property
    def files(self) -> Sequence[Path]:
        return self._file, self._best_file

    def load(self) -> FLModel:
        params = arrays_in(Path(self._source), "ModelParamPersistor: model_path: ") if self._source else {}
        return FLModel(params=params, meta={INITIAL_PARAMS: self._settings} if self._settings else {})

    def save(self, model: FLModel) -> Path:
        return _write(self._file, model)

    def save_best(self, model: FLModel) -> Path:
        return _write(self._best_file, model)

    def get(self, name: ModelName) -> FLModel | None:
        path = self._best_file if name == "best" else self._file
        return FLModel(params=arrays_in(path, "ModelParamPersistor: ")) if path.exists() else None


def _write(path: Path, model: FLModel) -> Path:
    arrays = {name: as_array(name, value, "ModelParamPersistor") for name, value in (model.params or {}).items()}
    return write_model(path, lambda file: write_npz(file, arrays))
