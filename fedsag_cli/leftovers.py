"""Names of files that programs leave in a folder: they are never part of a job or of a template."""

from __future__ import annotations

import re
from pathlib import Path

LOCAL = "fedsag_local"
"""The folder in which a script that no run started keeps what it sends."""

_LEFTOVER = re.compile(
    rf"__pycache__|\.ipynb_checkpoints|{LOCAL}"
    r"|\.DS_Store|\._.*|Icon\r|Thumbs\.db|[Dd]esktop\.ini|\.directory|\.Trash.*"  # file managers
    r"|.*~|#.*#|\.#.*|.*\.sw[a-p]|\.~lock\..*#"  # editors
    r"|\.nfs[0-9a-f]+|\.fuse_hidden[0-9a-f]+"  # deleted files that a process still has open
)
_COPY = re.compile(
    r"(?i)copy of .*|.* alias|.*[ -]copy( ?\(?\d+\)?)?(\.[^.]*)?|.* \(\d+\)(\.[^.]*)?|.*\.(bak|orig|old)"
)

_TOOLS = (
    ".git", ".hg", ".svn", ".venv", "venv", "node_modules", ".tox", ".nox", ".idea", ".vscode",
    ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis",
)  # fmt: skip


def is_of_a_tool(folder: Path) -> bool:
    """Whether a folder in a project is that of a tool, or an environment, a job or a workspace: no code of the project.

    A job and a workspace are those that fedsag made.
    """
    if folder.name in _TOOLS or folder.name.startswith(".fedsag"):
        return True
    marks = ("pyvenv.cfg", ".fedsag/made", "meta.conf")
    return any((folder / mark).is_file() for mark in marks)


def is_leftover(name: str) -> bool:
    """Whether a file or folder of this name was left by Python, a notebook, an editor, a file manager or a script."""
    return _LEFTOVER.fullmatch(name) is not None


def is_copy(name: str) -> bool:
    """Whether a file of this name is a copy that the user made of another one, such as `train copy.py`."""
    return _COPY.fullmatch(name) is not None
