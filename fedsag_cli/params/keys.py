"""Keys of an update that the model does not have: which of its keys they stand for, and which wrapper renamed them."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence

from fedsag_cli.errors import TensorError

_MOST_COMPARED = 2000  # names: more would take seconds
_MOST_WRAPPERS = 3  # around one module

_WRAPPERS = {
    "module.": "DataParallel and DDP put 'module.' into the names (net.module.state_dict() has none)",
    "_orig_mod.": "torch.compile puts '_orig_mod.' into the names (net._orig_mod.state_dict() has none)",
    "_fsdp_wrapped_module.": "FSDP puts '_fsdp_wrapped_module.' into the names",
    "_checkpoint_wrapped_module.": "activation checkpointing puts '_checkpoint_wrapped_module.' into the names",
    "base_model.model.": "PEFT puts 'base_model.model.' into the names",
    "base_layer.": "PEFT puts 'base_layer.' into the names of the layers that it adapts",
    "default.": "PEFT puts the adapter's name 'default.' into the names (get_peft_model_state_dict(net) has none)",
    "model.": "a module around the model, such as a LightningModule, puts 'model.' into the names",
    "net.": "a module around the model, such as a LightningModule, puts 'net.' into the names",
}


def unknown_keys(unknown: Sequence[str], known: Collection[str]) -> TensorError:
    """The error for an update with the keys `unknown`, which are not among the `known` ones of the model."""
    name, near, wrappers, is_reversed = _explained(unknown, known)
    others = f" and {len(unknown) - 1} more were" if len(unknown) > 1 else " was"
    has = f", which has {near!r}" if near else ""
    reasons = "; ".join(_WRAPPERS[words] for words in wrappers)
    if is_reversed:
        hint = f"the server's model has wrapped names: {reasons}"
    elif reasons:
        hint = f"{reasons}: send the names of the module inside"
    else:
        hint = "send the model's own names; with allow_unknown_keys = true the others are left out"
    return TensorError(f"params: {name!r}{others} not in the model that was sent{has}", hint=hint)


def _explained(unknown: Sequence[str], known: Collection[str]) -> tuple[str, str, Sequence[str], bool]:
    """One of the keys, the known key it stands for, the wrappers between them, and whether the known one has these."""
    for name in unknown[:10]:
        near, wrappers = _unwrapped(name, known)
        if near:
            return name, near, wrappers, False
    name = unknown[0]
    for other in list(known)[:_MOST_COMPARED]:
        if any(words in other for words in _WRAPPERS) and (wrappers := _unwrapped(other, {name})[1]):
            return name, other, wrappers, True
    near = next(iter(difflib.get_close_matches(name, list(known)[:_MOST_COMPARED], n=1)), "")
    return name, near, (), False


def _unwrapped(name: str, known: Collection[str]) -> tuple[str, Sequence[str]]:
    """The known name inside of `name`, and the wrappers whose words are around it; both empty if there is none."""
    found: dict[str, tuple[str, ...]] = {name: ()}
    for _ in range(_MOST_WRAPPERS):
        inner: dict[str, tuple[str, ...]] = {}
        for outer, wrappers in found.items():
            for words in _WRAPPERS:
                for other in _stripped(outer, words):
                    if other in known:
                        return other, (*wrappers, words)
                    inner.setdefault(other, (*wrappers, words))
        found = inner
    return "", ()


def _stripped(name: str, words: str) -> list[str]:
    """`name` without the words of one wrapper, for each place that has them."""
    parts = f".{name}".split(f".{words}")
    return [(f".{words}".join(parts[:at]) + "." + f".{words}".join(parts[at:]))[1:] for at in range(1, len(parts))]
