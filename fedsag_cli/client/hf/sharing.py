"""A base model that one client of a run builds, and all clients on this machine map into their memory."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from fedsag_cli import client
from fedsag_cli.errors import ClientError
from fedsag_cli.params.seeds import derived, seeded
from fedsag_cli.wire.channel import place_of_shared
from fedsag_cli.wire.messages import ADDRESS

Model = TypeVar("Model")


def shared(build: Callable[[], Model], name: str = "base") -> Model:
    """The model that `build` returns, with its tensors in memory that all clients of this run share.

    The first client calls `build` and writes the tensors to a file beside the socket of the run. It and all others
    call `build` on torch's device "meta", where a model has no memory, and map that file. So the tensors are in
    memory once, until a client changes one: then it has a copy of the changed pages only. Give it a base model on
    the CPU whose params stay frozen, as `peft.get_peft_model` leaves them, and add what is trained afterwards.
    `build` gets random numbers from the run's seed and `name`, whoever calls it, and must give every site the same
    model. Another model needs another `name`. The file is removed at the end of the run.

    Without a run it is `build()`. Raises ClientError before `flare.init()`, for a wrong `name`, or if the model cannot
    be written.
    """
    session = client._session(None, "shared")
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        raise ClientError(f"flare.shared(): name must be letters, digits, _ and -, not {name!r}")
    if ADDRESS not in os.environ:
        return build()
    import torch  # noqa: F401  before the numbers are set aside

    seed = derived(session.seed, "shared", name)  # other ranks than "0" have no streams
    with session.streams.aside(seed) if session.streams else seeded(seed):
        return _mapped(build, place_of_shared(os.environ[ADDRESS], f"{name}.pt"))


def _mapped(build: Callable[[], Model], path: Path) -> Model:
    import torch

    with path.with_suffix(".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed
        if not path.exists():
            _write(build(), path)
    tensors = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    with torch.device("meta"):  # the model without memory for its tensors
        model = build()
    for name, tensor in tensors.items():
        module, _, own = name.rpartition(".")
        holder = model.get_submodule(module)  # type: ignore[attr-defined]
        (holder._parameters if own in holder._parameters else holder._buffers)[own] = tensor
    return model


def _tensors(model: Any) -> dict[str, Any]:
    """All params and buffers by name; those that are tied are one object under several names."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return dict(named)


def _write(model: object, path: Path) -> None:
    import torch

    part = path.with_suffix(".part")
    try:
        with part.open("wb") as file:
            torch.save(_tensors(model), file)
        part.rename(path)
    except Exception as error:  # of pickle, any; torch's own for a full disk is a RuntimeError
        part.unlink(missing_ok=True)
        raise ClientError(
            f"flare.shared(): {type(model).__name__} cannot be written to {path.parent}: {error}",
            hint="TMPDIR names another folder for it",
        ) from None
