"""Divides pictures among sites, as many or as few as a site gets: flare.partition gives each the same number.

The table of this example was measured with it.
"""

import re

import numpy as np


def divided(labels, split, *, num_sites, seed=0):
    """For each site the indices of its pictures, each index once, no site without any."""
    skew = re.fullmatch(r"dirichlet:([\d.e+-]+)", split)
    if split != "iid" and not (skew and float(skew[1]) > 0):
        raise ValueError(f"--split must be iid or dirichlet:ALPHA with an ALPHA above 0, not {split!r}")
    if not 1 <= num_sites <= len(labels):
        raise ValueError(f"{len(labels)} pictures cannot be divided among {num_sites} sites")
    rng = np.random.default_rng(seed)
    if not skew:
        return np.array_split(rng.permutation(len(labels)), num_sites)
    shares = [[] for _ in range(num_sites)]
    for label in np.unique(labels):
        indices = rng.permutation(np.flatnonzero(labels == label))
        ends = np.cumsum(rng.dirichlet(np.full(num_sites, float(skew[1])))[:-1]) * len(indices)
        for share, piece in zip(shares, np.split(indices, ends.astype(int)), strict=True):
            share.extend(piece.tolist())
    for share in shares:
        if not share:  # a very small ALPHA: one that has most gives one away
            share.append(max(shares, key=len).pop())
    return [np.array(share) for share in shares]
