"""The weights of a logistic regression, in a `.npy` file."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from fedsag_cli.arguments import Least, checked
from fedsag_cli.facts import Facts, Nvflare
from fedsag_cli.persistors.numpy import NPModelPersistor


class LRModelPersistor(NPModelPersistor):
    """One float32 array named "numpy_key", of shape (n_features + 1, 1): it begins with zeros."""

    facts = Facts(nvflare=Nvflare(path="nvflare.app_common.workflows.lr.np_persistor.LRModelPersistor"))

    @checked
    def __init__(
        self,
        n_features: Annotated[int, Least(1), "number of features, without the intercept"] = 13,
        model_dir: Annotated[str, "folder of the models, beside the server's app folder"] = "models",
        model_name: Annotated[
            str, "file of the global model; best_ is added before the name for the best model"
        ] = "weights.npy",
        source_ckpt_file_full_name: Annotated[
            str | None, "file with the first weights, .npy or .npz, instead of zeros"
        ] = None,
    ) -> None:
        first = np.zeros((n_features + 1, 1), dtype=np.float32)
        super().__init__(first, model_dir, model_name, source_ckpt_file_full_name)
