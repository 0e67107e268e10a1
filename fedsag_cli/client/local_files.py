"""The folder in which a script that no run started finds what it sent: its params, its metrics, and what it logged.

The next start replaces what is in it. A file that the user made or changed stays; it is an error if it is in the way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from fedsag_cli.errors import ClientError
from fedsag_cli.made import Made
from fedsag_cli.model import FLModel, Params
from fedsag_cli.params import tensor_file
from fedsag_cli.params.encoding import is_payload, is_torch
from fedsag_cli.wire.messages import LogValues
from fedsag_cli.workspace import write_whole

_ANSWER, _LOGGED = "answer.json", "logged.jsonl"
_NUMPY, _TORCH, _OTHER = "model.npz", "model.pt", "model.safetensors"
_MADE = ".made.jsonl"


class LocalFiles:
    """The files of one start of a script."""

    def __init__(self, folder: Path) -> None:
        """Make the folder, and remove what an earlier start made in it. Raises ClientError."""
        self.folder = folder
        self._made = Made(folder, folder / _MADE, {})
        if folder.exists() and not folder.is_dir():
            raise ClientError(f"{folder} is in the way: it is not a folder", hint="move it to another place")
        with self._refused():
            folder.mkdir(exist_ok=True)
            self._made.read()
            self._made.remove(first=folder / _ANSWER)
            paths = [folder / name for name in (_ANSWER, _LOGGED, _NUMPY, _TORCH, _OTHER)]
            for path in paths:
                if path.exists() or path.is_symlink():
                    raise ClientError(
                        f"{path} is in the way: it was not made by this script, or has changed since",
                        hint="move it to another folder",
                    )

    def keep(self, task: str, model: FLModel, num_samples: int | None) -> None:
        """Keep an answer: its params, and all else as JSON. Raises ClientError."""
        with self._refused():
            told = {
                "task": task,
                "params": None if model.params is None else self._keep_params(model.params),
                "params_type": model.params_type,
                "metrics": model.metrics,
                "num_samples": num_samples,
                "meta": model.meta,
            }
            text = msgspec.json.format(msgspec.json.encode(told, enc_hook=_described), indent=2)
            self._write(_ANSWER, lambda file: file.write(text + b"\n"))

    def log(self, values: LogValues) -> None:
        """Keep what the script logs: a line of JSON for each call. Raises ClientError."""
        told = {"kind": values.kind, "values": values.values, "step": values.step}
        with self._refused(), self._making(_LOGGED) as path, path.open("ab") as file:
            file.write(msgspec.json.encode(told) + b"\n")

    def _keep_params(self, params: Params) -> str:
        """Write the params to a file that their library reads: its name."""
        if any(map(is_payload, params.values())):
            with self._making(_OTHER) as path:
                tensor_file.save(path, params)
            return _OTHER
        if any(map(is_torch, params.values())):
            import torch

            from fedsag_cli.persistors.torch import as_tensor

            tensors = {name: as_tensor(value) for name, value in params.items()}
            return self._write(_TORCH, lambda file: torch.save(tensors, file))
        from fedsag_cli.persistors.numpy import as_array, write_npz

        arrays = {name: as_array(name, value) for name, value in params.items()}
        return self._write(_NUMPY, lambda file: write_npz(file, arrays))

    def _write(self, name: str, write: Any) -> str:
        with self._making(name) as path:
            write_whole(path, write)
        return name

    @contextlib.contextmanager
    def _making(self, name: str) -> Iterator[Path]:
        """The path of a file that is written in this block, and is ours from then on."""
        path = self.folder / name
        if self._made.knows(path) and name == _LOGGED:  # it grows
            yield path
            return
        self._made.announce([self._made.will_make(path, grows=name == _LOGGED)])
        yield path
        self._made.settle()

    @contextlib.contextmanager
    def _refused(self) -> Iterator[None]:
        """Raise what the system refuses in this block as a ClientError."""
        try:
            yield
        except OSError as error:
            raise ClientError(
                f"what the script sends cannot be kept: {error.filename or self.folder}: {error.strerror}",
                hint="start the script in a folder that can be written",
            ) from None


def _described(value: Any) -> Any:
    """What JSON says of a tensor in `meta`."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return {"dtype": str(value.dtype), "shape": list(value.shape)}
    raise TypeError(type(value).__name__)
