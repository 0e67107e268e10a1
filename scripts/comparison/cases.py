"""What is compared: jobs that differ in what travels and in how it is averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CLIENTS, ROUNDS = 3, 2
_EXCLUDE = "components[1].args.exclude_vars=^head"
_WEIGHTS = "components[1].args.aggregation_weights={ site-1 = 2.5, site-3 = 0.3 }"
_FILTER = (
    'task_result_filters=[{ tasks = ["train"], filters = [{ path = ExcludeVars, args { exclude_vars = "^head" } }] }]'
)
_MINE = [
    'components[1]={ id = "aggregator", path = mine.Squares, args {} }',
    'task_result_filters=[{ tasks = ["train"], filters = [{ path = mine.Clips, args { limit = 6.5 } }] }]',
]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A template, what is set in it, and what the script is told. `in_order`: replies arrive in the order of sites."""

    name: str
    template: str
    server: Sequence[str] = ()
    client: Sequence[str] = ()
    words: str = ""
    in_order: bool = True

    @property
    def is_torch(self) -> bool:
        return self.template != "sag_np"


CASES = [
    Case(name="sag_np", template="sag_np"),
    Case(name="sag_pt FULL", template="sag_pt", client=["params_transfer_type=FULL"]),
    Case(name="sag_pt DIFF", template="sag_pt"),
    Case(name="in-process DIFF", template="sag_pt_in_proc"),
    Case(name="unequal steps", template="sag_pt", words="--steps 3,5,11"),
    Case(name="unequal steps FULL", template="sag_pt", client=["params_transfer_type=FULL"], words="--steps 3,5,11"),
    Case(name="aggregation_weights", template="sag_pt", server=[_WEIGHTS], words="--steps 3,5,11"),
    Case(name="partial keys", template="sag_pt", words="--partial --steps 3,5,11"),
    Case(name="exclude_vars, aggregator", template="sag_pt", server=[_EXCLUDE], words="--steps 3,5,11"),
    Case(name="exclude_vars, filter", template="sag_pt", client=[_FILTER], words="--steps 3,5,11"),
    Case(name="users' filter, aggregator", template="sag_np", server=_MINE, words="--steps 3,5,11"),
    Case(name="SCAFFOLD", template="sag_pt_scaffold", words="--scaffold --steps 3,5,11"),
    Case(name="another order", template="sag_pt", words="--steps 3,5,11 --order 3,1,2", in_order=False),
]
