"""Which failures of several sites are alike: those of one cause at one place."""

from __future__ import annotations

import re
from typing import TypeAlias

from fedsag_cli.events import Failure

Kind: TypeAlias = "tuple[str, str]"
"""What failures have in common: the cause, without names and numbers, and the place."""


def kind_of(site: str, failure: Failure) -> Kind:
    """What this failure has in common with those of other sites."""
    return re.sub(r"\d+(\.\d+)?", "#", of_any_site(site, failure.cause)), failure.where


def of_any_site(site: str, cause: str) -> str:
    if site not in cause:  # a pattern of its own for each of thousands of sites takes time
        return cause
    return re.sub(rf"(?<![\w.-]){re.escape(site)}(?![\w-])", "<site>", cause)
