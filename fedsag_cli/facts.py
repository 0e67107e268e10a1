"""What is known of a component before it is imported: its class says it in an attribute.

    class BestOfAll:
        facts = Facts(asks_for=("train_task_name",))

Like the arguments it is read from the source: it is made of these classes, literals and names of constants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec


class Nvflare(msgspec.Struct, frozen=True, kw_only=True):
    """The class of NVFLARE that a component stands for, and how their arguments differ.

    `path` is its class path in NVFLARE 2.9. `also` has the names of its further classes that the component stands for,
    such as those of older versions, each with the arguments it implies.

    When a job of NVFLARE is read: `defaults` are the arguments where its class does, given none, something else than
    ours; `older_names` are other names of our arguments. Its `ignored` arguments have no effect here, and those of
    `expected` none with one of these values: for any other, the user is told.

    When a job is exported: `added` are arguments that only its class has, `left_out` those that only ours has, each
    with what its class does instead (empty: the same). It takes only whole numbers for `whole_numbers`.

    `renamed` holds, for both ways, its name of an argument and ours.
    """

    path: str
    also: Mapping[str, Mapping[str, Any]] = {}
    renamed: Mapping[str, str] = {}
    older_names: Mapping[str, str] = {}
    defaults: Mapping[str, Any] = {}
    ignored: Sequence[str] = ()
    expected: Mapping[str, Sequence[Any]] = {}
    added: Mapping[str, Any] = {}
    left_out: Mapping[str, str] = {}
    whole_numbers: Sequence[str] = ()

    @property
    def name(self) -> str:
        """The name of its class."""
        return self.path.rpartition(".")[2]


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a component.

    `asks_for` are the arguments that hold the name of a task which at least one client must take. `extra` is a
    tracker's: fedsag's extra that installs the package it needs, which has the same name.
    """

    needs_torch: bool = False
    asks_for: Sequence[str] = ()
    extra: str = ""
    nvflare: Nvflare | None = None
