"""Which examples are a site's own."""

import re
import sys

import numpy as np

POOLED = "pooled"  # the client of `fedsag simulator --baseline centralised`: the data of all sites are its own


def part_of(x, y, site, num_sites, seed=0):
    """(x, y) of the site's part, and of the fifth of the data that all sites test on. The same for the same seed."""
    order = np.random.default_rng(seed).permutation(len(x))
    test, own = order[: len(x) // 5], order[len(x) // 5 :]
    if site != POOLED:
        number = int((re.search(r"\d+$", site) or ["0"])[0])
        if not 1 <= number <= num_sites:
            sys.exit(f"error: {site}: the data has parts for site-1 to site-{num_sites}; --num_sites makes more")
        own = own[number - 1 :: num_sites]
    return (x[own], y[own]), (x[test], y[test])
