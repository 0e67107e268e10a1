"""One run of a sweep, in a process of its own: what it does, and the lines that it tells the sweep."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path

import msgspec

from fedsag_cli import events, foreign
from fedsag_cli.errors import FedsagError
from fedsag_cli.events import Event
from fedsag_cli.processes.local import StartNursery
from fedsag_cli.simulator import simulate
from fedsag_cli.simulator.options import Options


class Share(msgspec.Struct, frozen=True, tag=True):
    """How much of the run is done, from 0 to 1."""

    done: float


class Trained(msgspec.Struct, frozen=True, tag=True):
    """All its tasks are done: it only writes its results and ends its processes."""


class Ended(msgspec.Struct, frozen=True, tag=True):
    """How it ended. `bug`: the traceback of an error that fedsag does not expect."""

    exit_code: int
    cause: str = ""
    bug: str = ""


Told = Share | Trained | Ended
_decoder = msgspec.json.Decoder(Told)


def run(job: Path, workspace: Path, options: Options, nursery: StartNursery, telling: int) -> int:
    """Run the job, and write lines into the pipe `telling`. Returns the exit code."""

    def tell(told: Told) -> None:
        os.write(telling, msgspec.json.encode(foreign.masked(told)) + b"\n")

    try:
        simulate(job, workspace, options, [_Teller(tell)], nursery)
        ended = Ended(exit_code=0)
    except FedsagError as error:
        ended = Ended(exit_code=error.exit_code, cause=error.message)
    except Exception as error:
        # whatever it is: the sweep tells it and goes on with the next run
        cause = f"a bug in fedsag: {type(error).__name__}: {error}"
        ended = Ended(exit_code=1, cause=cause, bug="".join(traceback.format_exception(error)))
    tell(ended)
    return ended.exit_code


class Lines:
    """What a run tells, read as it comes."""

    def __init__(self) -> None:
        self._rest = b""

    def read(self, pipe: int) -> list[Told] | None:
        """What has come; None at the end."""
        data = os.read(pipe, 1 << 16)
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [_decoder.decode(line) for line in lines]


class _Teller:
    """An observer that tells how far a run is."""

    def __init__(self, tell: Callable[[Told], None]) -> None:
        self._tell = tell
        self._first, self._num = 0, 1

    def on(self, event: Event) -> None:
        match event:
            case events.RoundStarted():
                self._first, self._num = event.first_round, max(1, event.num_rounds)
            case events.RoundFinished():
                self._tell(Share(min(1.0, (event.round_num - self._first + 1) / self._num)))
            case events.WorkflowFinished():
                self._tell(Trained())
