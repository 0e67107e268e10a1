"""The contract of a privacy accountant, which counts what the rounds of a run have spent."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable


class Spent(NamedTuple):
    """The run so far is (epsilon, delta)-differentially private, as `mechanism` says for whom and by what."""

    epsilon: float
    delta: float
    mechanism: str


@runtime_checkable
class Accountant(Protocol):
    """A component of the server that is told each round. What it keeps between rounds: see `model.Stateful`.

    It can have a method `prepare(plan)`, which gets the plan of the run before the first round. Raises JobError if the
    job does not do what it counts.
    """

    def spend(self, num_sampled: int, num_clients: int) -> Spent:
        """Count one round more, in which `num_sampled` of `num_clients` clients were asked; return the sum so far.

        They were drawn at random, without replacement; `num_clients` is `num_sampled` if they were not.
        """
