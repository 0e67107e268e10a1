"""FedOpt (Reddi et al., 2021, https://arxiv.org/abs/2003.00295, Algorithm 1) with any optimizer of torch.

    x  <-  ServerOpt(x, -Delta, eta)

Delta is the merged change of the model by the clients' training: its negative is what the optimizer gets as gradient.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from fedsag_cli.arguments import checked
from fedsag_cli.errors import JobError
from fedsag_cli.facts import Facts, Nvflare
from fedsag_cli.model import FLModel, Params, Tree
from fedsag_cli.params.arithmetic import as_torch
from fedsag_cli.params.values import as_array, calculable, cast
from fedsag_cli.updaters.averaging import Averaging
from fedsag_cli.updaters.pseudo_gradient import is_optimized, pseudo_gradient

_DEFAULT = {"path": "torch.optim.SGD", "args": {"lr": 1.0}}


class FedOpt:
    """One step of a torch optimizer in each round, with the clients' merged change as the negative gradient.

    A learning-rate scheduler makes a step after it. In a config file, both objects need `config_type = "dict"`: then
    they are descriptions, and not built with the job's components.
    """

    facts = Facts(
        needs_torch=True,
        nvflare=Nvflare(
            path="nvflare.app_opt.pt.fedopt.PTFedOptModelShareableGenerator",
            ignored=("source_model", "device"),  # the model is the workflow's; one step needs no GPU
            added={"source_model": "model"},
        ),
    )

    @checked
    def __init__(
        self,
        optimizer_args: Annotated[
            Mapping[str, Any] | None, "the optimizer: its path and args (null: torch.optim.SGD with lr 1.0)"
        ] = None,
        lr_scheduler_args: Annotated[
            Mapping[str, Any] | None, "the learning-rate scheduler: its path and args (null: none)"
        ] = None,
    ) -> None:
        """Raises JobError if there is no such optimizer or scheduler, or it cannot be made of its args."""
        self._optimizer_args, self._scheduler_args = optimizer_args or _DEFAULT, lr_scheduler_args
        self._make([])  # so that wrong arguments are told at once
        self._weights: dict[str, Any] = {}
        self._optimizer: Any = None
        self._scheduler: Any = None
        self._num_steps = 0
        self._restored: Mapping[str, Any] = {}

    def update(self, model: FLModel, aggregate: FLModel) -> FLModel:
        import torch

        changes = pseudo_gradient(model, aggregate)
        others = {name: value for name, value in (aggregate.params or {}).items() if name not in changes}
        averaged = Averaging().update(model, replace(aggregate, params=others))
        if not model.params:
            return averaged
        if self._optimizer is None:
            self._begin(model.params)
        for name, weight in self._weights.items():
            with torch.no_grad():
                weight.copy_(_tensor(model.params[name]))
            weight.grad = -_tensor(changes[name]).to(weight.dtype) if name in changes else None
        self._step()
        stepped = {name: cast(self._weights[name].detach().clone(), model.params[name]) for name in changes}
        return replace(averaged, params=(averaged.params or {}) | stepped)

    def state(self) -> Tree:
        """The number of steps, and what the optimizer has for each param, such as its momentum.

        The scheduler has nothing else: its rates follow from the number.
        """
        moments = {} if self._optimizer is None else self._optimizer.state
        found = {name: dict(moments[weight]) for name, weight in self._weights.items() if weight in moments}
        return {"num_steps": self._num_steps, "moments": found or dict(self._restored)}

    def restore(self, state: Tree) -> None:
        self._num_steps, self._restored = state["num_steps"], state["moments"]

    def _begin(self, params: Params) -> None:
        import torch

        names = [name for name, value in params.items() if is_optimized(name, value)]
        self._weights = {name: torch.nn.Parameter(_tensor(params[name]).clone()) for name in names}
        self._optimizer, self._scheduler = self._make(list(self._weights.values()))
        done, self._num_steps = self._num_steps, 0
        for _ in range(done):  # without gradients nothing changes but the rate
            self._step()
        for name, moments in self._restored.items():
            self._optimizer.state[self._weights[name]] = dict(moments)

    def _step(self) -> None:
        self._optimizer.step()
        if self._scheduler is not None:
            self._scheduler.step()
        self._num_steps += 1

    def _make(self, weights: Sequence[Any]) -> tuple[Any, Any]:
        """The optimizer and the scheduler, which may be None. Raises JobError."""
        import torch

        optimizer = _made("optimizer_args", self._optimizer_args, weights or [torch.nn.Parameter(torch.zeros(1))])
        scheduler = self._scheduler_args and _made("lr_scheduler_args", self._scheduler_args, optimizer)
        return optimizer, scheduler or None


def _made(argument: str, described: Mapping[str, Any], first: Any) -> Any:
    path = str(described.get("path") or described.get("class_path") or described.get("name") or "")
    module, _, name = path.rpartition(".")
    try:
        made = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        raise JobError(
            f"FedOpt: {argument}: there is no class {path!r}", hint='give path = "torch.optim.SGD", or another class'
        ) from None
    try:
        return made(first, **(described.get("args") or {}))
    except Exception as error:
        # torch raises several kinds of error for wrong arguments
        raise JobError(f"FedOpt: {argument}: {path}: {error}") from error


def _tensor(value: Any) -> Any:
    """A value as a torch tensor that an optimizer can calculate with."""
    return calculable(as_torch(as_array(value)))
