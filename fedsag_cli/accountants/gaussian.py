"""What rounds of the Gaussian mechanism spend, as dp-accounting counts it.

https://github.com/google/differential-privacy/tree/main/python/dp_accounting

Two runs are neighbors if the data of one client are replaced by any other data (replace-one). Then a sum of updates
that are clipped to S changes by up to 2 S, so noise of standard deviation z S is z / 2 times its sensitivity. Rounds
that draw their clients at random without replacement spend less (Wang et al., 2019, https://arxiv.org/abs/1808.00087,
in Rényi differential privacy); T rounds that ask all clients are one with z / sqrt(T) (Balle and Wang, 2018,
https://arxiv.org/abs/1805.06530). The smaller bound counts: both hold.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

from fedsag_cli.accountants import Spent
from fedsag_cli.arguments import Above, checked
from fedsag_cli.errors import JobError
from fedsag_cli.facts import Facts
from fedsag_cli.model import Tree
from fedsag_cli.plan import Plan, SitePlan, matches

Delta: TypeAlias = Annotated[
    float, Above(0), "probability with which epsilon may not hold: well below 1 / number of clients"
]

_FILTER = "GaussianPrivacy"
_ORDERS = [1.25, 1.5, 1.75, *range(2, 33), 40, 48, 64, 96, 128, 256, 512]


def epsilon_of(rounds: Mapping[tuple[int, int], int], noise_multiplier: float, delta: float) -> float:
    """The epsilon of so many rounds, by the clients asked and all clients. Raises JobError without dp-accounting.

    The clients that are asked must be drawn at random, without replacement, or be all.
    """
    total, z = sum(rounds.values()), noise_multiplier / 2
    if not total or not z:
        return math.inf if total else 0.0
    dp = library()
    without_draw = float(dp.get_epsilon_gaussian(z / math.sqrt(total), delta))
    if all(asked == clients for asked, clients in rounds):
        return without_draw
    accountant = dp.rdp.RdpAccountant(_ORDERS, dp.NeighboringRelation.REPLACE_ONE)
    for (asked, clients), count in rounds.items():
        one = dp.GaussianDpEvent(z)
        if asked < clients:
            one = dp.SampledWithoutReplacementDpEvent(source_dataset_size=clients, sample_size=asked, event=one)
        accountant.compose(one, count)
    return min(without_draw, float(accountant.get_epsilon(delta)))


def library() -> Any:
    """dp-accounting. Raises JobError if it is not installed."""
    try:
        importlib.import_module("dp_accounting.rdp")
        return importlib.import_module("dp_accounting")
    except ImportError as error:
        raise JobError(
            f"an account of privacy needs dp-accounting: {error}", hint="pip install 'fedsag[privacy]'"
        ) from None


class GaussianAccountant:
    """The account of the clients' filters GaussianPrivacy: for each client, of its updates as the server gets them.

    It reads the noise from the filters' settings. It counts every round for every client, also if it was not asked: who
    was asked is no secret to the server. Metrics and numbers of steps are not counted: they are sent as they are.
    """

    facts = Facts()

    @checked
    def __init__(self, delta: Delta) -> None:
        """Raises JobError if dp-accounting is not installed."""
        self._delta, self._noise_multiplier, self._num_rounds = delta, 0.0, 0
        library()

    def prepare(self, plan: Plan) -> None:
        """Read the filters of all clients. Raises JobError if a client sends updates without noise."""
        self._noise_multiplier = min(map(_noise_multiplier, plan.sites))

    def spend(self, num_sampled: int, num_clients: int) -> Spent:  # noqa: ARG002
        self._num_rounds += 1
        epsilon = epsilon_of({(num_clients, num_clients): self._num_rounds}, self._noise_multiplier, self._delta)
        return Spent(epsilon, self._delta, f"for the data of one client, by {_FILTER} in each client")

    def state(self) -> Tree:
        return self._num_rounds

    def restore(self, state: Tree) -> None:
        self._num_rounds = state


def _noise_multiplier(site: SitePlan) -> float:
    """The largest one of the site's filters, by which it sends all its params."""
    own = site.config
    filters = [spec for spec in own.task_result_filters if spec.path.rpartition(".")[2] == _FILTER]
    sending = [own.train_task_name, *([own.submit_model_task_name] if own.submit_model_task_name in own.tasks else [])]
    for task in sending:
        if not any(matches(task, spec.tasks) for spec in filters):
            raise JobError(
                f"GaussianAccountant: {site.name} has no filter {_FILTER} for the task {task!r}",
                hint="add it to task_result_filters in config_fed_client",
            )
    return max(float(spec.args["noise_multiplier"]) for spec in filters if matches(own.train_task_name, spec.tasks))
