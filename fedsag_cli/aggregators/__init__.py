"""The contract of an aggregator, which merges the clients' updates one by one."""

from __future__ import annotations

import importlib.util
import inspect
from typing import Any, Protocol

from fedsag_cli.errors import JobError
from fedsag_cli.model import FLModel, Reply


class Aggregator(Protocol):
    """Merges the updates of one round: it gets them one by one, in site order, and returns the merged update.

    An aggregator can have these methods too:

    `begin(sent, cohort)`: called before the first update of a round, with the FLModel that is sent and the Cohort. It
    may return another FLModel, which is sent instead: such as one with more in its meta.
    `check(update, sent)`: the update to accept, an FLModel, for one that a client sent; `sent` are the params that were
    sent. It takes the place of the usual checks of keys, shapes and numbers. Raises TensorError.
    `excludes(name)`: whether params of this name are left out. Then updates may have such keys that the model does not
    have.
    `state()` and `restore(state)`: see `model.Stateful`.

    One that needs only the model may have `accept(site, update)`.
    """

    def accept(self, reply: Reply) -> None:
        """Add one client's update. Raises TensorError if it does not fit the earlier ones."""

    def aggregate(self) -> FLModel:
        """The merged update of all that were accepted since the last call; its params are empty if there were none.

        Its metrics and meta say how it was made. They are told with the round.
        """


def give(aggregator: Any, reply: Reply) -> None:
    """Let an aggregator accept a reply. Raises TensorError."""
    if _takes_site(aggregator):
        aggregator.accept(reply.site, reply.model)
    else:
        aggregator.accept(reply)


def merged_by(aggregator: Any) -> FLModel:
    """What an aggregator makes of what it accepted. Raises TypeError where that is no model."""
    made: object = aggregator.aggregate()
    if not isinstance(made, FLModel):
        raise TypeError(f"{type(aggregator).__name__}.aggregate() returned {type(made).__name__}, not an FLModel")
    return made


def needs(module: str, component: str, *, extra: str) -> None:
    """Raises JobError if this module, which an extra of fedsag installs, is not there."""
    if importlib.util.find_spec(module) is None:
        raise JobError(f"{component} needs {module}, which is not installed", hint=f"pip install 'fedsag[{extra}]'")


def _takes_site(aggregator: Any) -> bool:
    try:
        inspect.signature(aggregator.accept).bind(None, None)
    except TypeError:
        return False
    return True
