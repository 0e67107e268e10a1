"""Users' own filters and aggregators on NVFLARE's base classes: Filter, DXOFilter, ModelAggregator and Assembler.

Each base class has fedsag's methods of a filter or of an aggregator. They call the user's, with a Shareable or with
an FLModel, whose params are numpy arrays, except those of a dtype that numpy does not have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fedsag_cli.interop.base.context import Engine, FLComponent, FLContext, Workspace
from fedsag_cli.interop.base.exchange import DXO, DataKind, FLModelUtils, Shareable, from_shareable, with_arrays
from fedsag_cli.interop.constants import AppConstants, EventType, ReservedKey, ReturnCode
from fedsag_cli.model import STATISTICS, Cohort, Exchange, FLModel, Params, ParamsType, Reply
from fedsag_cli.params import arithmetic
from fedsag_cli.params.encoding import is_torch
from fedsag_cli.params.seeds import seeded
from fedsag_cli.workspace import JOB_ID, SERVER

__all__ = ["Assembler", "ContentBlockedException", "DXOFilter", "Filter", "ModelAggregator"]

_CARRIED = (DataKind.WEIGHTS, DataKind.WEIGHT_DIFF, DataKind.METRICS)


class ContentBlockedException(Exception):
    """A filter raises it where nothing of a model may pass: the task, or its answer, has failed."""


class Filter(FLComponent):
    """Changes what a Shareable has, in the process whose config names it.

    Before its first task it hears of the start of the run. While it works, the random numbers of `random`, numpy and
    torch's CPU are its own, for each site and task.
    """

    _context: FLContext | None = None

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """The Shareable to use in place of this one, which may be changed. Raises what shall fail the task."""
        raise NotImplementedError(f"{type(self).__name__} has no process()")

    def set_prop(self, key: str, value: Any) -> None:
        setattr(self, key, value)

    def get_prop(self, key: str, default: Any = None) -> Any:
        return getattr(self, key, default)

    def make_ready(self, site: str) -> None:
        """`site`: whose process this is, "server" in the server."""
        self._context = _context_of(site)
        self.handle_event(EventType.START_RUN, self._context)

    def filter_model(self, model: FLModel, exchange: Exchange) -> FLModel:
        """The model after `process`. Raises TypeError or ValueError where that gave nothing that fedsag sends."""
        if STATISTICS in model.meta and exchange.sent is not None:
            raise ValueError("NVFLARE's filters do not see the statistics: use StatisticsPrivacyFilter")
        shareable = FLModelUtils.to_shareable(with_arrays(model))
        shareable.set_header(ReservedKey.TASK_NAME, exchange.task)
        context = self._context or _context_of(exchange.site)
        context.peer = SERVER if context.get_identity_name() == exchange.site else exchange.site
        context.set_prop(ReservedKey.TASK_NAME, exchange.task)
        _tell_round(context, model)
        with seeded(int(exchange.rng.integers(1 << 63))):
            made: object = self.process(shareable, context)
        return _as_model(made, model)


class DXOFilter(Filter):
    """A filter that gets the DXO of a Shareable, if it is of one of these kinds and has data."""

    def __init__(
        self,
        supported_data_kinds: Sequence[str] | None = None,
        data_kinds_to_filter: Sequence[str] | None = None,
    ) -> None:
        """The kinds of a DXO that it can filter, and those that it does (None: all that it can; None for both: all).

        Raises ValueError if it is for kinds of which fedsag carries none, or is to filter one that it cannot.
        """
        super().__init__()
        for name, kinds in (
            ("supported_data_kinds", supported_data_kinds),
            ("data_kinds_to_filter", data_kinds_to_filter),
        ):
            if kinds and not isinstance(kinds, list | tuple):
                raise ValueError(f"{name} must be a list of texts, not {kinds!r}")
        for kind in data_kinds_to_filter or ():
            if supported_data_kinds and kind not in supported_data_kinds:
                raise ValueError(f"data_kinds_to_filter has {kind}: it supports only {', '.join(supported_data_kinds)}")
        self.data_kinds = data_kinds_to_filter or supported_data_kinds
        if self.data_kinds and not set(self.data_kinds) & set(_CARRIED):
            raise ValueError(f"it is for {', '.join(self.data_kinds)}, and fedsag sends {', '.join(_CARRIED)}")

    def process_dxo(self, dxo: DXO, shareable: Shareable, fl_ctx: FLContext) -> DXO | None:
        """The DXO to use in place of this one; None: this one, which may be changed."""
        raise NotImplementedError(f"{type(self).__name__} has no process_dxo()")

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """Raises TypeError where `process_dxo` returns something else."""
        dxo = from_shareable(shareable)
        if not dxo.data or (self.data_kinds and dxo.data_kind not in self.data_kinds):
            return shareable
        made: object = self.process_dxo(dxo, shareable, fl_ctx)
        if not isinstance(made, DXO | None):
            raise TypeError(f"{type(self).__name__}.process_dxo() returned {type(made).__name__}, not a DXO or None")
        return (made or dxo).update_shareable(shareable)


class ModelAggregator(FLComponent):
    """An aggregator whose class has `accept_model`, `aggregate_model` and `reset_stats`.

    The models have `meta["client_name"]`. `fl_ctx` has the round.
    """

    fl_ctx: Any = None

    def accept_model(self, model: FLModel) -> None:
        """Add one client's model."""
        raise NotImplementedError(f"{type(self).__name__} has no accept_model()")

    def aggregate_model(self) -> FLModel:
        """The merged model."""
        raise NotImplementedError(f"{type(self).__name__} has no aggregate_model()")

    def reset_stats(self) -> None:
        """Begin the next round. It is called once before each round."""

    def make_ready(self, site: str) -> None:
        """`site`: "server"."""
        self.fl_ctx = _context_of(site)
        self.reset_stats()

    def begin(self, sent: FLModel, cohort: Cohort) -> None:  # noqa: ARG002
        _tell_round(self.fl_ctx, sent)

    def accept(self, reply: Reply) -> None:
        meta = {**reply.model.meta, "client_name": reply.site}
        self.accept_model(with_arrays(replace(reply.model, meta=meta)))

    def aggregate(self) -> FLModel:
        merged = self.aggregate_model()
        self.reset_stats()  # now rather than with the next round: what it has added is not kept in the meantime
        return merged

    def info(self, message: str) -> None:
        self.logger.info(message)

    def warning(self, message: str) -> None:
        self.logger.warning(message)

    def error(self, message: str) -> None:
        self.logger.error(message)

    def exception(self, message: str) -> None:
        self.logger.exception(message)


class Assembler(FLComponent):
    """An aggregator that merges all clients' models at once. In NVFLARE, another component collects them for it."""

    fl_ctx: Any = None

    def __init__(self, data_kind: str) -> None:
        """`data_kind`: the kind of DXO that clients send, WEIGHTS or WEIGHT_DIFF."""
        super().__init__()
        self.expected_data_kind = data_kind
        self._collection: dict[str, Any] = {}

    @property
    def collection(self) -> dict[str, Any]:
        """By site, what `get_model_params` took of its model."""
        return self._collection

    def get_expected_data_kind(self) -> str:
        return self.expected_data_kind

    def get_model_params(self, dxo: DXO) -> Any:
        """What to collect of one client's params, which are numpy arrays, or None where the client had no value."""
        raise NotImplementedError(f"{type(self).__name__} has no get_model_params()")

    def assemble(self, data: dict[str, Any], fl_ctx: FLContext) -> DXO | Params:
        """The merged model's params, of what was collected."""
        raise NotImplementedError(f"{type(self).__name__} has no assemble()")

    def reset(self) -> None:
        """Begin the next round."""
        self._collection = {}

    def make_ready(self, site: str) -> None:
        """`site`: "server"."""
        self.fl_ctx = _context_of(site)

    def begin(self, sent: FLModel, cohort: Cohort) -> None:  # noqa: ARG002
        _tell_round(self.fl_ctx, sent)

    def check(self, update: FLModel, sent: Mapping[str, Any]) -> FLModel:  # noqa: ARG002
        """`update`: its params need not have the names of those that were sent."""
        return update

    def accept(self, reply: Reply) -> None:
        """Raises ValueError for a model of another kind."""
        dxo = from_shareable(FLModelUtils.to_shareable(with_arrays(reply.model)))
        if dxo.data_kind != self.expected_data_kind:
            raise ValueError(f"{reply.site} sent another kind of DXO than {type(self).__name__}'s data_kind")
        dxo.data = _Sent(dxo.data)
        self._collection[reply.site] = self.get_model_params(dxo)

    def aggregate(self) -> FLModel:
        """Raises TypeError where `assemble` returns something else."""
        made: object = self.assemble(self._collection, self.fl_ctx)
        self.reset()
        self._collection = {}  # also where the user's `reset` leaves it
        params = made.data if isinstance(made, DXO) else made
        if not isinstance(params, Mapping):
            raise TypeError(f"{type(self).__name__}.assemble() returned {type(made).__name__}, not a DXO or a dict")
        is_difference = self.expected_data_kind == DataKind.WEIGHT_DIFF
        return FLModel(params=dict(params), params_type=ParamsType.DIFF if is_difference else ParamsType.FULL)


class _Sent(dict[str, Any]):
    """Params that were sent: a script's None is not among them."""

    def __missing__(self, name: str) -> None:
        return None


def _context_of(site: str) -> FLContext:
    """That of this process."""
    here, name = Path.cwd(), f"app_{site}"
    app = here if here.name == name else here / JOB_ID / name  # a script may begin in its site's folder
    return FLContext(site, JOB_ID, Engine(Workspace(app), {}))


def _tell_round(context: FLContext | None, model: FLModel) -> None:
    if context is None:  # not in a server
        return
    context.set_prop(AppConstants.CURRENT_ROUND, model.current_round)
    context.set_prop(AppConstants.NUM_ROUNDS, model.total_rounds)


def _as_model(made: object, before: FLModel) -> FLModel:
    """What a filter made of `before`."""
    if not isinstance(made, Shareable):
        raise TypeError(f"process() returned {type(made).__name__}, not a Shareable")
    if (code := made.get_return_code()) != ReturnCode.OK:
        raise ValueError(f"process() returned the code {code}")
    found = FLModelUtils.from_shareable(made)
    return replace(
        before,
        params=None if found.params is None else _in_kinds(found.params, before.params or {}),
        params_type=found.params_type,
        metrics={name: float(value) for name, value in found.metrics.items()} if found.metrics else before.metrics,
        meta=found.meta,
    )


def _in_kinds(params: Mapping[str, Any], before: Mapping[str, Any]) -> Params:
    """With torch tensors where there were some."""
    return {
        name: arithmetic.as_torch(np.asarray(value, order="C"))
        if is_torch(before.get(name)) and not is_torch(value)
        else value
        for name, value in params.items()
    }
