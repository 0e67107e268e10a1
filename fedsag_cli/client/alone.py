"""A script that no run started: it does one local pass, and this module is in the server's place.

So the script can be debugged like any other: `python train.py`.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from fedsag_cli.client.local_files import LocalFiles
from fedsag_cli.client.place import Site
from fedsag_cli.errors import ChannelClosed, ClientError, FedsagError
from fedsag_cli.leftovers import LOCAL
from fedsag_cli.model import FLModel, Params
from fedsag_cli.params import checks
from fedsag_cli.params.packing import packed, unpacked
from fedsag_cli.params.tensor_file import TensorFile
from fedsag_cli.plan import ClientConfig
from fedsag_cli.wire.messages import (
    ADDRESS,
    COUNT,
    INDEX,
    PROCESS,
    RUN,
    SITE,
    TOKEN,
    Answer,
    Assignment,
    LogValues,
    ToServer,
    Welcome,
    parted,
)
from fedsag_cli.workspace import JOB_ID

INITIAL = "FEDSAG_INITIAL"  # a file with the params that `receive()` gives
LOCAL_SITE = "FEDSAG_LOCAL_SITE"  # for example 2/4: the second of four sites
_OF_A_RUN = (ADDRESS, TOKEN, RUN, SITE, INDEX, COUNT, PROCESS)
_SEED = 0


def is_alone() -> bool:
    """Whether no run started this process: it has none of the variables that a run sets."""
    return not any(name in os.environ for name in _OF_A_RUN)


def local_site() -> Site:
    """The site for which the script works: "site-1" of one, or that of FEDSAG_LOCAL_SITE. Raises ClientError."""
    given = os.environ.get(LOCAL_SITE, "1/1")
    found = re.fullmatch(r"([1-9][0-9]{0,8})/([1-9][0-9]{0,8})", given)
    if found is None or int(found[1]) > int(found[2]):
        raise ClientError(
            f"{LOCAL_SITE} is {given!r}, and not the number of a site and the number of sites",
            hint=f"{LOCAL_SITE}=2/4 is the second of four sites",
        )
    return Site(index=int(found[1]) - 1, count=int(found[2]), name=f"site-{found[1]}")


def begin(site: Site) -> tuple[Welcome, LocalPass]:
    """What a server would answer, and the channel to it. Says so on standard error. Raises ClientError."""
    initial = _initial(os.environ[INITIAL]) if os.environ.get(INITIAL) else None
    files = LocalFiles(Path(LOCAL).absolute())
    none = f"params None ({INITIAL}=FILE gives it some)"
    params = none if initial is None else f"the params of {os.environ[INITIAL]}"
    print(  # noqa: T201
        f"fedsag: no run started this script: it trains once, as {site.name} of {site.count}, with {params}. "
        f"What it sends is kept in {files.folder}",
        file=sys.stderr,
    )
    welcome = Welcome(job_id=JOB_ID, seed=_SEED, scratch=str(files.folder), config=ClientConfig())
    return welcome, LocalPass(files, FLModel(params=initial, current_round=0, total_rounds=1))


class LocalPass:
    """A channel to nobody: it gives one task, and keeps the answer and what is logged."""

    def __init__(self, files: LocalFiles, model: FLModel) -> None:
        self._files, self._model = files, model
        self._task = ClientConfig().train_task_name
        self._is_given = False

    def send(self, message: ToServer, *fds: int) -> None:
        """Keep an answer, or what is logged. Raises ClientError; TensorError for an answer that a run would refuse."""
        match message:
            case Answer():
                fd, _ = parted(fds, has_state=message.has_state)
                with contextlib.ExitStack() as opened:
                    file = None if fd is None else opened.enter_context(TensorFile(os.dup(fd), trusted=True))
                    model = unpacked(message.model, file)
                    if model.params is None:
                        raise ClientError(
                            f"the answer to the task {self._task!r} has no params", hint="give FLModel(params=…)"
                        )
                    checks.check_passed_on(model, self._model.params or {})
                    self._files.keep(self._task, model, message.num_samples)
            case LogValues():
                self._files.log(message)

    def receive(self, timeout_s: float | None = None) -> tuple[Assignment, list[int]]:  # noqa: ARG002
        """The task, and the descriptor of its params. Raises ChannelClosed after that: there is one."""
        if self._is_given:
            raise ChannelClosed("a local pass has one task")
        self._is_given = True
        facts, file = packed(self._model)
        fds = [] if file is None else [os.dup(file.fileno())]
        if file is not None:
            file.close()
        return Assignment(task_id=1, task_name=self._task, model=facts), fds

    def close(self) -> None:
        """Nothing is open."""


def _initial(name: str) -> Params:
    """The params in a file: numpy's, torch's, or one of tensors. Raises ClientError."""
    path, where = Path(name), f"{INITIAL}: "
    read: Callable[[Path, str], Params] | None = _READERS.get(path.suffix)
    if read is None:
        raise ClientError(f"{where}{path}: a file of this kind has no params", hint=f"known: {', '.join(_READERS)}")
    if not path.is_file():
        raise ClientError(f"{where}there is no file {path}")
    try:
        params = read(path, where)
        _, file = packed(FLModel(params=params))
    except OSError as error:
        raise ClientError(f"{where}{path}: {error.strerror}") from None
    except FedsagError as error:
        told = error.message if error.message.startswith(where) else f"{where}{path}: {error.message}"
        raise ClientError(told, hint=error.hint) from None
    if file is not None:
        file.close()
    return params


def _of_numpy(path: Path, where: str) -> Params:
    from fedsag_cli.persistors.numpy import arrays_in

    return arrays_in(path, where)


def _of_torch(path: Path, where: str) -> Params:
    from fedsag_cli.persistors.torch import state_in

    return state_in(path, where)


def _of_tensors(path: Path, _: str) -> Params:
    with TensorFile.open(path) as file:
        return file.load()


_READERS: dict[str, Callable[[Path, str], Params]] = {
    ".npz": _of_numpy,
    ".npy": _of_numpy,
    ".pt": _of_torch,
    ".pth": _of_torch,
    ".safetensors": _of_tensors,
}
