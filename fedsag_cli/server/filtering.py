"""The server's filters: those of tasks, and those of answers."""

from __future__ import annotations

import traceback
from typing import Any

import numpy as np

from fedsag_cli.errors import FedsagError
from fedsag_cli.events import Failure
from fedsag_cli.filters import Chain, made_by
from fedsag_cli.model import Exchange, FLModel, Task, Tree
from fedsag_cli.params.seeds import derived


class FilterError(Exception):
    """An exception of a filter, as the cause of a failure."""

    def __init__(self, name: str, error: Exception | SystemExit) -> None:
        text = error.message if isinstance(error, FedsagError) else f"{type(error).__name__}: {error}"
        super().__init__(text)
        frames = traceback.extract_tb(error.__traceback__)[2:]  # without our own
        where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        self.failure = Failure(cause=f"the server's filter {name}: {text}", where=where)


class Filtering:
    """One direction: the chain of filters, and what each of them keeps for each site."""

    def __init__(self, direction: str, chain: Chain, seed: int) -> None:
        """`direction`: "task" or "answer"."""
        self._direction, self._chain, self._seed = direction, chain, seed
        self._states: dict[str, dict[str, Any]] = {}  # by the number of a filter, then by site

    def filtered(
        self, model: FLModel, task: Task, site: str, *, sent: FLModel | None, workflow: int, nth: int
    ) -> FLModel:
        """`model` after the filters. Raises FilterError.

        `site`: as in Exchange. `nth`: how often it was asked before in this round of the workflow.
        """
        round_num = task.model.current_round or 0
        for number, link in self._chain.of(task.name):
            parts = ("filter", "server", self._direction, number, site, workflow, round_num, nth)
            exchange = Exchange(
                site=site,
                task=task.name,
                round_num=round_num,
                sent=sent,
                rng=np.random.default_rng(derived(self._seed, *parts)),
                state=self._states.setdefault(str(number), {}).setdefault(site, {}),
            )
            try:
                model = made_by(link, model, exchange)
            except (Exception, SystemExit) as error:
                # a filter may be the user's own and raise anything: one reply fails, and the log has the traceback
                traceback.print_exc()
                raise FilterError(type(link).__name__, error) from error
        return model

    def excludes(self, task_name: str, name: str) -> bool:
        """See Chain."""
        return self._chain.excludes(task_name, name)

    def called(self, task_name: str) -> str:
        """The filters of a task, for a message about what they made; empty if there are none."""
        names = [type(link).__name__ for _, link in self._chain.of(task_name)]
        return f"the server's filter{'s' * (len(names) > 1)} {', '.join(names)}" if names else ""

    def state(self) -> Tree:
        """What the filters keep; None if it is nothing."""
        kept = {
            number: {site: part for site, part in by_site.items() if part} for number, by_site in self._states.items()
        }
        return kept if any(kept.values()) else None

    def restore(self, state: Tree) -> None:
        self._states = state
