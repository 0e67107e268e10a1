"""The end of each help text: an example that can be copied and run."""

from __future__ import annotations


def example(*lines: str) -> str:
    """The epilog of a command: lines of a shell, which are shown as they are."""
    title = "Example:" if sum(line.startswith("fedsag") for line in lines) == 1 else "Examples:"
    return "\n".join(["\b", title, *(f"  {line}" for line in lines)])
