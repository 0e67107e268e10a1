"""FedProx's coefficient mu, which the server sends in the meta of each model. Does not import torch."""

from __future__ import annotations

import math
from numbers import Real

from fedsag_cli.model import FEDPROX_MU, FLModel

__all__ = ["get_fedprox_mu"]


def get_fedprox_mu(model: FLModel) -> float:
    """The mu of a received model: a finite number above 0. Raises ValueError if it is missing or another value."""
    mu = model.meta.get(FEDPROX_MU)
    number = float(mu) if isinstance(mu, Real) and not isinstance(mu, bool) else math.nan
    if not 0 < number < math.inf:
        found = f"no meta[{FEDPROX_MU!r}]" if mu is None else f"{mu!r} as meta[{FEDPROX_MU!r}]"
        raise ValueError(
            f"the received model has {found}, but FedProx needs a number above 0: set {FEDPROX_MU} in the job"
        )
    return number
