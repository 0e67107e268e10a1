"""Facts about a component that are known before it is imported, from the attribute `facts` of its class.

    class BestOfAll:
        facts = Facts(asks_for=("train_task_name",))

The attribute is read from the source, as the arguments are. So it may contain only these classes, literals and names of
constants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec


class Nvflare(msgspec.Struct, frozen=True, kw_only=True):
    """The class of NVFLARE that a component stands for, and how their arguments differ.

    `path` is the class path in NVFLARE 2.9. `also` names further classes of NVFLARE that the component stands for, such
    as those of older versions, each with the arguments that it implies.

    For reading a job of NVFLARE: `defaults` has NVFLARE's default of each argument whose default differs here.
    `older_names` maps older names of arguments to the names here. Arguments in `ignored` have no effect here. Those in
    `expected` have none if they have one of the listed values; any other value is reported to the user.

    For exporting a job: `added` are arguments that only NVFLARE's class has. `left_out` are arguments that only the
    class here has, each with what NVFLARE does instead (empty: the same). NVFLARE takes only whole numbers for the
    arguments in `whole_numbers`.

    `renamed` maps NVFLARE's name of an argument to the name here, for reading and for exporting.
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
        """The name of NVFLARE's class."""
        return self.path.rpartition(".")[2]


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about a component.

    `asks_for` lists the arguments that contain the name of a task; at least one client must take that task.
    `names_sites` lists those that may have a list of clients' names. `extra` is for a tracker: the extra of fedsag
    that installs the package of the same name. `keeps_nothing`: what it keeps from round to round does not change the
    result, so a run can be resumed without it. `imports`: modules of other packages that it imports when a run begins.
    `sends` is for an aggregator: what its clients send that is no model which one of them has trained; without the
    aggregator, their script cannot go on.
    """

    needs_torch: bool = False
    keeps_nothing: bool = False
    asks_for: Sequence[str] = ()
    names_sites: Sequence[str] = ()
    extra: str = ""
    imports: Sequence[str] = ()
    sends: str = ""
    nvflare: Nvflare | None = None
