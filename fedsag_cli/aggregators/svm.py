"""One support vector machine of the sites' support vectors (a cascade of one layer: Graf et al., 2004,
https://papers.nips.cc/paper/2608-parallel-support-vector-machines-the-cascade-svm).

Each site trains an SVM on its data, and sends its support vectors with their labels. The server trains an SVM on all of
them; its support vectors are the model. So there is one round of training: a second round only measures the model.

The model has `support_x`, float64 of shape (vectors, features), and `support_y`, the labels, of shape (vectors,).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import numpy as np

from fedsag_cli.aggregators import needs
from fedsag_cli.arguments import OneOf, checked
from fedsag_cli.errors import JobError, TensorError
from fedsag_cli.facts import Facts, Nvflare
from fedsag_cli.model import Cohort, FLModel, Reply


class SVMAggregator:
    """Trains an SVM on the support vectors of all sites. A client sends `support_x` and `support_y`."""

    facts = Facts(
        sends="support vectors",
        keeps_nothing=True,
        nvflare=Nvflare(path="nvflare.app_opt.sklearn.svm_assembler.SVMAssembler"),
    )

    @checked
    def __init__(
        self,
        kernel: Annotated[
            str, OneOf(["linear", "poly", "rbf", "sigmoid"]), "kernel, which the clients use too"
        ] = "rbf",
    ) -> None:
        """Raises JobError if scikit-learn is not installed."""
        needs("sklearn", "SVMAggregator", extra="sklearn")
        self._kernel = kernel

    def begin(self, sent: FLModel, _: Cohort) -> None:
        self._known = {name: value for name, value in (sent.params or {}).items() if name in ("support_x", "support_y")}
        self._x: list[np.ndarray] = []
        self._y: list[np.ndarray] = []

    def check(self, update: FLModel, sent: Mapping[str, Any]) -> FLModel:
        """The update. Raises TensorError if it has no vectors, not as many labels, or other features than sent."""
        params = update.params or {}
        missing = {"support_x", "support_y"} - params.keys()
        if missing:
            raise TensorError(f"params must have 'support_x' and 'support_y', not only {sorted(params)}")
        x, y = np.asarray(params["support_x"]), np.asarray(params["support_y"])
        if x.ndim != 2 or y.shape != (len(x),):
            raise TensorError(
                f"params: 'support_x' has shape {x.shape} and 'support_y' {y.shape}: a label for each row"
            )
        if not x.size:
            raise TensorError(f"params: 'support_x' has shape {x.shape}: there is no support vector")
        if x.dtype.kind not in "biuf" or not np.isfinite(x).all():
            raise TensorError("params: 'support_x' has values that are no numbers, or NaN or infinite")
        if y.dtype.kind == "f" and not (np.isfinite(y) & (y == np.floor(y))).all():
            raise TensorError("params: 'support_y' has labels that are not whole numbers")
        if "support_x" in sent and x.shape[1] != np.shape(sent["support_x"])[1]:
            raise TensorError(
                f"params: 'support_x' has {x.shape[1]} features, it must have {np.shape(sent['support_x'])[1]}"
            )
        return replace(update, params={"support_x": x, "support_y": y})

    def accept(self, reply: Reply) -> None:
        params = self.check(reply.model, {}).params or {}
        if self._x and params["support_x"].shape[1] != self._x[0].shape[1]:
            raise TensorError(
                f"{reply.site} sent vectors of {params['support_x'].shape[1]} features, others {self._x[0].shape[1]}"
            )
        self._x.append(np.array(params["support_x"]))
        self._y.append(np.array(params["support_y"]))

    def aggregate(self) -> FLModel:
        """Raises JobError if all labels are the same."""
        if self._known or not self._x:
            return FLModel(params=dict(self._known))
        from sklearn.svm import SVC

        x, y = np.concatenate(self._x), np.concatenate(self._y)
        if len(np.unique(y)) < 2:
            raise JobError(
                f"the support vectors of all sites have the same label, {y.flat[0]}: an SVM needs two classes",
                hint="look at the data of the sites",
            )
        support = SVC(kernel=self._kernel).fit(x, y).support_
        return FLModel(params={"support_x": x[support], "support_y": y[support]}, metrics=_told(len(x), len(support)))


def _told(sent: int, kept: int) -> dict[str, float]:
    """For the report."""
    return {"support_vectors_sent": float(sent), "support_vectors": float(kept)}
