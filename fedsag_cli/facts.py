"""What is known of a component before it is imported: its class says it in an attribute.

    class BestOfAll:
        facts = Facts(asks_for=("train_task_name",))

Like the arguments it is read from the source: it is made of these classes, literals and names of constants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Nvflare:
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
    also: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    older_names: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    ignored: Sequence[str] = ()
    expected: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    added: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    whole_numbers: Sequence[str] = ()

    @property
    def name(self) -> str:
        """The name of its class."""
        return self.path.rpartition(".")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a component.

    `asks_for` are the arguments that hold the name of a task which at least one client must take. `extra` is a
    tracker's: fedsag's extra that installs the package it needs, which has the same name.
    """

    needs_torch: bool = False
    asks_for: Sequence[str] = ()
    extra: str = ""
    nvflare: Nvflare | None = None
