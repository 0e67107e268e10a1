"""Statistics in a JSON file, in the form that NVFLARE writes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from fedsag_cli import workspace
from fedsag_cli.arguments import checked
from fedsag_cli.errors import JobError
from fedsag_cli.facts import Facts, Nvflare


class JsonStatsFileWriter:
    """Writes {feature: {statistic: {site or "Global": {data set: value}}}} into the server's folder of the run.

    A histogram is a list of [low, high, count], a quantile an object from the share of the values to the value.
    """

    facts = Facts(
        nvflare=Nvflare(
            path="nvflare.app_common.statistics.json_stats_file_persistor.JsonStatsFileWriter",
            ignored=("json_encoder_path",),
        )
    )

    @checked
    def __init__(self, output_path: Annotated[str, "the file, beside the server's app folder"]) -> None:
        if not output_path or Path(output_path).is_absolute() or ".." in Path(output_path).parts:
            raise JobError(
                f"JsonStatsFileWriter: output_path must be a path inside the server's folder, not {output_path!r}"
            )
        self._file = Path("..", output_path)

    @property
    def files(self) -> Sequence[Path]:
        return (self._file,)

    def save(self, statistics: dict[str, Any]) -> Path:
        """Write the file, completely or not at all, and return its path. Raises OSError."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(statistics, indent=1, allow_nan=False).encode()
        workspace.write_whole(self._file, lambda file: file.write(text), sync=True)
        return self._file.resolve()
