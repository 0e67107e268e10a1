"""Which params of a trainer's model travel: all of them, or those of its PEFT adapter."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from fedsag_cli.client.loading import fitting, load
from fedsag_cli.errors import ClientError, nearest
from fedsag_cli.model import Params

Trainer: TypeAlias = Any
"""A `transformers.Trainer`, or a subclass such as those of TRL."""

Scope: TypeAlias = Literal["auto", "model", "adapter"]
_SCOPES = ("auto", "model", "adapter")


@dataclass(frozen=True, slots=True, kw_only=True)
class Travelling:
    """The params that one trainer receives and sends. `prefix`: what the server's names have before the model's."""

    trainer: Trainer
    only_adapter: bool
    strict: bool
    prefix: str

    @classmethod
    def of(cls, trainer: Trainer, scope: str, *, strict: bool, prefix: str | None) -> Travelling:
        """Raises ClientError if `scope` is unknown, or the model has no adapter and shall send one."""
        if scope not in _SCOPES:
            raise ClientError(f"flare.patch(): params_scope is {scope!r}", hint=nearest(scope, _SCOPES))
        has_adapter = _has_adapter(_plain(trainer))
        if scope == "adapter" and not has_adapter:
            raise ClientError(
                'flare.patch(): params_scope is "adapter", and the model has none',
                hint="give the trainer a model of peft.get_peft_model()",
            )
        return cls(trainer=trainer, only_adapter=has_adapter and scope != "model", strict=strict, prefix=prefix or "")

    def load(self, params: Params) -> None:
        """Copy the received params into the model. Raises ClientError if they do not fit."""
        model = _plain(self.trainer)
        received = {key.removeprefix(self.prefix): value for key, value in params.items()}
        if not self.only_adapter:
            load(model, received, strict=self.strict)
            return
        from peft import set_peft_model_state_dict

        name = f"the adapter of {type(model).__name__}"
        set_peft_model_state_dict(model, fitting(name, self._own(), received, strict=self.strict))

    def current(self) -> dict[str, Any]:
        """The model's params as they are now, under the server's names."""
        return {self.prefix + key: value.detach() for key, value in self._own().items()}

    def _own(self) -> Mapping[str, Any]:
        model = _plain(self.trainer)
        state: Mapping[str, Any] = adapter_state(model) if self.only_adapter else model.state_dict()
        return state


def adapter_state(model: Any) -> dict[str, Any]:
    """The adapter of a PEFT model: tensors under the names of PEFT's file `adapter_model.safetensors`.

    The base model's embeddings are not among them: to ask whether they have changed, PEFT would call Hugging Face's
    hub. An embedding that is trained, in `modules_to_save`, is.
    """
    from peft import get_peft_model_state_dict

    return dict(get_peft_model_state_dict(model, save_embedding_layers=False))


def _plain(trainer: Trainer) -> Any:
    """The model without what the trainer wraps around it, such as DistributedDataParallel."""
    return trainer.accelerator.unwrap_model(trainer.model)


def _has_adapter(model: Any) -> bool:
    kind = getattr(sys.modules.get("peft"), "PeftModel", None)  # a model of PEFT has imported it
    return isinstance(kind, type) and isinstance(model, kind)
