"""Divides one data set among the sites of a run: which samples are whose.

Every site computes the whole division and takes its own part, so no site talks to another one. The division depends on
the labels, the way, the number of sites and the seed of the run.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedsag_cli.client.place import Site
from fedsag_cli.errors import ClientError, counted, nearest
from fedsag_cli.params.encoding import is_torch
from fedsag_cli.params.seeds import derived

_Numbers: TypeAlias = NDArray[Any]  # of whole numbers

WAYS = ("iid", "dirichlet", "shards", "column")


def part_of(
    site: Site, labels: Any, how: str, *, alpha: float = 0.5, shards_per_site: int = 2, seed: int
) -> NDArray[np.int64]:
    """The indices of the samples that are this site's: sorted, int64. See `flare.partition`. Raises ClientError."""
    if how not in WAYS:
        raise ClientError(f"partition: there is no way {how!r}", hint=nearest(str(how), WAYS))
    array = _of_number(labels, how) if _is_number(labels) else _row(labels)
    if len(array) < site.count:
        raise ClientError(
            f"partition: {counted(len(array), 'sample')} for {counted(site.count, 'site')}: one would have none",
            hint="give fewer clients (-n), or more samples",
        )
    division = _Division(how, site.count, seed, _checked_alpha(alpha), _checked_shards(shards_per_site))
    return np.flatnonzero(_owners(array.tobytes(), array.dtype.str, division) == site.index).astype(np.int64)


@dataclass(frozen=True, slots=True)
class _Division:
    """How the samples are divided."""

    how: str
    num_sites: int
    seed: int
    alpha: float
    shards_per_site: int

    def bits(self, what: str) -> np.random.PCG64:
        return np.random.PCG64(derived(self.seed, "partition", what))


@functools.lru_cache(maxsize=4)  # a worker asks for each of its clients, perhaps for training and for test data
def _owners(labels: bytes, dtype: str, division: _Division) -> _Numbers:
    """The index of the site that has each sample."""
    divide = {"iid": _iid, "dirichlet": _dirichlet, "shards": _shards, "column": _column}[division.how]
    _, codes = np.unique(np.frombuffer(labels, dtype), return_inverse=True)
    return divide(codes, division)


def _iid(codes: _Numbers, division: _Division) -> _Numbers:
    """The samples in random order, in parts of the same size."""
    owners = np.empty(len(codes), np.int32)
    owners[_shuffled(len(codes), division.bits("samples"))] = _in_parts(len(codes), division.num_sites)
    return owners


def _dirichlet(codes: _Numbers, division: _Division) -> _Numbers:
    """Hsu et al., 2019, https://arxiv.org/abs/1909.06335: q ~ Dir(alpha p) are the shares of the labels at a site.

    p are their shares in all data. All sites have the same number of samples, and get them in random order. Of a label
    of which nothing is left, the sites after that get none: the rest of their mix is Dirichlet, too.
    """
    for_samples = division.bits("samples")
    # a generator of its own: data with the same shares of labels, such as those for tests, get the same mixes
    for_mixes = np.random.Generator(division.bits("labels"))
    shuffled = _shuffled(len(codes), for_samples)
    pools = shuffled[np.argsort(codes[shuffled], kind="stable")]  # label by label, each in random order
    sizes = np.bincount(codes)
    ends = np.cumsum(sizes)
    left = sizes.copy()
    prior = np.maximum(division.alpha * (sizes / len(codes)), np.finfo(float).tiny)
    num_samples = np.bincount(_in_parts(len(codes), division.num_sites))
    owners = np.empty(len(codes), np.int32)
    draw = np.random.Generator(for_samples)
    for site in _shuffled(division.num_sites, for_mixes.bit_generator):
        taken = _take(for_mixes.dirichlet(prior), num_samples[site], left, draw, prior)
        for label in np.flatnonzero(taken):
            first = ends[label] - left[label]
            owners[pools[first : first + taken[label]]] = site
        left -= taken
    return owners


def _take(
    mix: NDArray[np.float64], size: int, left: _Numbers, draw: np.random.Generator, prior: NDArray[np.float64]
) -> _Numbers:
    """How many samples of each label a site gets: `size` in all, drawn by its mix from what is left."""
    taken = np.zeros_like(left)
    while (missing := size - taken.sum()) > 0:
        rest = left - taken
        there = rest > 0
        shares = np.where(there, mix, 0.0)
        if not shares.sum() > 0:  # a small alpha: a float has no room for the other shares
            shares[there] = draw.dirichlet(prior[there])
        taken += np.minimum(draw.multinomial(missing, shares / shares.sum()), rest)
    return taken


def _shards(codes: _Numbers, division: _Division) -> _Numbers:
    """McMahan et al., 2017, https://arxiv.org/abs/1602.05629: the samples sorted by label, cut into equal shards."""
    num_sites, num_shards = division.num_sites, division.num_sites * division.shards_per_site
    if len(codes) < num_shards:
        raise ClientError(
            f"partition: {counted(len(codes), 'sample')} are too few for {counted(num_shards, 'shard')}",
            hint=f"shards_per_site is {division.shards_per_site}, and there are {counted(num_sites, 'site')}",
        )
    site_of_shard = np.empty(num_shards, np.int32)
    site_of_shard[_shuffled(num_shards, division.bits("labels"))] = _in_parts(num_shards, num_sites)
    owners = np.empty(len(codes), np.int32)
    owners[np.argsort(codes, kind="stable")] = site_of_shard[_in_parts(len(codes), num_shards)]
    return owners


def _column(codes: _Numbers, division: _Division) -> _Numbers:
    """The distinct values in random order, dealt out to the sites: each value is at one site."""
    num_sites, num_values = division.num_sites, int(codes.max()) + 1
    if num_values < num_sites:
        raise ClientError(
            f"partition: the column has {counted(num_values, 'distinct value')}, for {counted(num_sites, 'site')}",
            hint="give at most as many clients (-n) as there are values",
        )
    site_of_value = np.empty(num_values, np.int32)
    site_of_value[_shuffled(num_values, division.bits("labels"))] = np.arange(num_values) % num_sites
    return site_of_value[codes]


def _in_parts(size: int, num_parts: int) -> _Numbers:
    """The number of the part of each place, if `size` places are cut into parts of the same size, or one more."""
    return (np.arange(size) * num_parts + num_parts - 1) // size


def _shuffled(size: int, bits: Any) -> _Numbers:
    """The numbers below `size` in random order; of whole numbers alone, so it is the same with every numpy."""
    return np.argsort(bits.random_raw(size), kind="stable")


# what the script gave


def _is_number(labels: object) -> bool:
    return isinstance(labels, Integral) and not isinstance(labels, bool)


def _of_number(number: int, how: str) -> NDArray[Any]:
    if how != "iid":
        raise ClientError(f"partition: how={how!r} needs the labels, not their number", hint="give the labels")
    return np.zeros(max(number, 0), np.int8)


def _row(labels: Any) -> NDArray[Any]:
    """The labels as an array, of which equal bytes are equal labels."""
    try:
        array = labels.detach().cpu().numpy() if is_torch(labels) else np.asarray(labels)
    except (TypeError, ValueError) as error:
        raise ClientError(f"partition: the labels are no row of values: {error}") from None
    if array.ndim != 1:
        kind = type(labels).__name__
        raise ClientError(
            f"partition: the labels are a {kind} of shape {array.shape}, not one label for each sample",
            hint="give a row of labels, or the number of samples; of one-hot rows: labels.argmax(1)",
        )
    if bool(np.any(array != array)):  # NaN, and the date that is none
        raise ClientError("partition: some labels are NaN", hint="leave out these samples, or give them a label")
    if array.dtype != object:
        return array
    try:
        return np.unique(array, return_inverse=True)[1]
    except TypeError as error:
        raise ClientError(f"partition: the labels cannot be sorted: {error}", hint="give labels of one type") from None


def _checked_alpha(alpha: Any) -> float:
    try:
        number = float(alpha)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise ClientError(f"partition: alpha must be a finite number above 0, not {alpha!r}")
    return number


def _checked_shards(shards_per_site: Any) -> int:
    if not _is_number(shards_per_site) or shards_per_site < 1:
        raise ClientError(f"partition: shards_per_site must be a whole number from 1 on, not {shards_per_site!r}")
    return int(shards_per_site)
