"""The environment of a run's processes: that of the command, without what is meant for the command alone."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from fedsag_cli import machine

_DEFAULTS = {
    "OMP_WAIT_POLICY": "PASSIVE",  # with active waiting, two clients on two cores train 4 to 40 times slower
    "PYTHONHASHSEED": "0",  # so that the order of a set of names is the same in every run
}
_PLACE_IN_A_GROUP = re.compile(
    "RANK|WORLD_SIZE|NODE_RANK|(LOCAL|GROUP|ROLE)_(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)|TORCHELASTIC_.*"
    "|SLURM_(PROCID|LOCALID|NODEID|NTASKS.*|NPROCS|TASKS_PER_NODE|GTIDS|STEP_(NUM_TASKS|TASKS_PER_NODE))"
    "|(OMPI|MV2)_COMM_WORLD_.*|PMIX?_.*|MPI_LOCAL(RANKID|NRANKS)|PALS_.*RANK.*|JSM_NAMESPACE_.*|LSB_DJOB_RANKFILE"
    "|HOROVOD_(CROSS_|LOCAL_)?(RANK|SIZE)|FLUX_TASK_.*|FEDSAG_TASK_KIND"
)
_LISTS_OF_FOLDERS = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")
_SHOWN = 4


def for_processes(given: Mapping[str, str]) -> dict[str, str]:
    """The environment that all processes of a run get, if the command has the environment `given`.

    A relative folder in a list of folders means one in the current folder; the processes work in other folders.
    """
    env = _DEFAULTS | {name: value for name, value in given.items() if not _PLACE_IN_A_GROUP.fullmatch(name)}
    for name in _LISTS_OF_FOLDERS:
        if env.get(name):
            env[name] = os.pathsep.join(map(_absolute, env[name].split(os.pathsep)))
    return {"HOME": str(machine.home())} | machine.with_own_programs(env)


def _absolute(folder: str) -> str:
    try:
        return os.path.abspath(folder)  # noqa: PTH100  as Python does with PYTHONPATH; Path.absolute() keeps `..`
    except FileNotFoundError:  # the current folder was removed
        return folder


def notes(given: Mapping[str, str]) -> list[str]:
    """What to tell the user about variables in `given` that are left out."""
    names = [name for name in given if _PLACE_IN_A_GROUP.fullmatch(name)]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    shown = f"{', '.join(names[:_SHOWN])}{more}"
    return [f"clients are no ranks of the process that started fedsag: they do not get {shown}"] if names else []
