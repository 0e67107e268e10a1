"""Mini-batch k-means (Sculley, 2010, https://doi.org/10.1145/1772690.1772862) whose batches are the sites' data.

In the first round each site sends centres of its own, and a k-means of them all gives the first k centres. Then each
site assigns its examples to the centres, and sends the mean c_kj and the number n_kj of those of each centre j:

    v_j  <-  v_j + sum_k n_kj            c_j  <-  c_j + sum_k n_kj * (c_kj - c_j) / v_j

The model has the centres as `center`, float64 of shape (k, features), and the v_j as `count`, float64 of shape (k,).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from fedsag_cli.aggregators import needs
from fedsag_cli.errors import TensorError
from fedsag_cli.facts import Facts, Nvflare
from fedsag_cli.model import Cohort, FLModel, Reply


class KMeansAggregator:
    """Merges the centres of the sites. A client sends `center` and, from the second round on, `count`."""

    facts = Facts(
        sends="the centres of clusters and their numbers of points",
        keeps_nothing=True,
        nvflare=Nvflare(path="nvflare.app_opt.sklearn.kmeans_assembler.KMeansAssembler"),
    )

    def __init__(self) -> None:
        """Raises JobError if scikit-learn is not installed."""
        needs("sklearn", "KMeansAggregator", extra="sklearn")

    def begin(self, sent: FLModel, cohort: Cohort) -> None:
        params = sent.params or {}
        self._center, self._count = params.get("center"), params.get("count")
        self._rng = cohort.rng
        self._centers: list[np.ndarray] = []
        self._counts: list[np.ndarray] = []

    def check(self, update: FLModel, sent: Mapping[str, Any]) -> FLModel:
        """The update, its values as float64. Raises TensorError if a shape does not fit, or a count is below 0."""
        params = update.params or {}
        if "center" not in params:
            raise TensorError(f"params must have 'center', not only {sorted(params)}")
        center = _finite("center", params["center"])
        count = _finite("count", params["count"]) if "count" in params else np.zeros(len(center))
        if center.ndim != 2 or ("center" in sent and center.shape != np.shape(sent["center"])):
            want = np.shape(sent["center"]) if "center" in sent else "(centres, features)"
            raise TensorError(f"params: 'center' has shape {center.shape}, it must be {want}")
        if not center.size:
            raise TensorError(f"params: 'center' has shape {center.shape}: there is no centre")
        if count.shape != center.shape[:1] or (count < 0).any():
            raise TensorError(f"params: 'count' must have {len(center)} numbers from 0 on")
        return replace(update, params={"center": center, "count": count})

    def accept(self, reply: Reply) -> None:
        params = self.check(reply.model, {}).params or {}
        if self._centers and params["center"].shape != self._centers[0].shape:
            raise TensorError(
                f"{reply.site} sent centres of shape {params['center'].shape}, others {self._centers[0].shape}"
            )
        self._centers.append(np.array(params["center"]))
        self._counts.append(np.array(params["count"]))

    def aggregate(self) -> FLModel:
        if not self._centers:
            return FLModel(params={})
        if self._center is None:
            return FLModel(params={"center": self._first(), "count": np.zeros(len(self._centers[0]))})
        c = np.asarray(self._center, dtype=np.float64)
        n_k = np.stack(self._counts)
        v = np.asarray(self._count, dtype=np.float64) + n_k.sum(axis=0)
        moved = (n_k[:, :, None] * (np.stack(self._centers) - c)).sum(axis=0)
        c = c + np.divide(moved, v[:, None], out=np.zeros_like(c), where=v[:, None] > 0)
        return FLModel(params={"center": c, "count": v})

    def _first(self) -> np.ndarray:
        """The centres of a k-means of the sites' centres."""
        from sklearn.cluster import KMeans
        from threadpoolctl import threadpool_limits

        seed = int(self._rng.integers(2**31))
        with threadpool_limits(1):  # the order of its sums must not depend on the number of cores
            found = KMeans(n_clusters=len(self._centers[0]), n_init=10, random_state=seed)
            return np.asarray(found.fit(np.concatenate(self._centers)).cluster_centers_)


def _finite(name: str, value: Any) -> np.ndarray:
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise TensorError(f"params: {name!r} is a {type(value).__name__}, not an array of numbers") from None
    if not np.isfinite(numbers).all():
        raise TensorError(f"params: {name!r} has numbers that are NaN or infinite")
    return numbers
