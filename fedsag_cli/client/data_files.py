"""Rows of a table with a label and features, for scripts that use NVFLARE's `nvflare.app_opt.sklearn.data_loader`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_READERS = {".csv": "read_csv", ".xls": "read_excel", ".xlsx": "read_excel"}

__all__ = ["load_data", "load_data_for_range"]


def load_data(data_path: str, require_header: bool = False) -> tuple[Any, Any, int]:
    """The features, the labels and the number of the rows in a .csv, .xls or .xlsx file: see `load_data_for_range`."""
    return load_data_for_range(data_path, 0, None, require_header)


def load_data_for_range(
    data_path: str, start: int, end: int | None, require_header: bool = False
) -> tuple[Any, Any, int]:
    """The features of shape (rows, columns - 1), the labels and the number of the rows from `start` to before `end`.

    The first column has the labels. `require_header`: the first line has the names of the columns. Raises ValueError if
    the name has another ending, OSError if the file cannot be read.
    """
    if (reader := _READERS.get(Path(data_path).suffix.lower())) is None:
        raise ValueError(f"{data_path}: its name must end in one of {', '.join(_READERS)}")
    import pandas as pd  # optional

    rows = getattr(pd, reader)(data_path, header=0 if require_header else None).iloc[start:end]
    return rows.iloc[:, 1:].to_numpy(), rows.iloc[:, 0].to_numpy(), len(rows)
