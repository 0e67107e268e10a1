"""Trained models in numpy files, by name: what cross-site evaluation measures without training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

from fedsag_cli.arguments import checked
from fedsag_cli.facts import Facts, Nvflare
from fedsag_cli.model import FLModel
from fedsag_cli.persistors.numpy import arrays_in


class NPModelLocator:
    """Models in `.npy` or `.npz` files. The array of a `.npy` file is called "numpy_key" in the params."""

    facts = Facts(nvflare=Nvflare(path="nvflare.app_common.np.np_model_locator.NPModelLocator"))

    @checked
    def __init__(
        self,
        model_name: Annotated[
            str | Mapping[str, str] | None,
            'the files by the names of the models; one file is called "server" (null: server.npy)',
        ] = None,
        model_dir: Annotated[
            str | None, "folder of the files; a relative one is beside the server's app folder (null: models)"
        ] = None,
    ) -> None:
        files = model_name if isinstance(model_name, Mapping) else {"server": model_name or "server.npy"}
        self._files = {name: Path("..", model_dir or "models", file) for name, file in files.items()}

    def models(self) -> Iterator[tuple[str, FLModel]]:
        """Each model with its name. Raises JobError if one cannot be read."""
        for name, path in self._files.items():
            yield name, FLModel(params=arrays_in(path, f"NPModelLocator: {name}: "))
