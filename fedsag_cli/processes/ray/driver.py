"""The driver: the process that uses Ray for the command's own process, which does not import it."""

from __future__ import annotations

import os
import secrets
import select
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import NoReturn

import msgspec

from fedsag_cli.errors import FedsagError, of_system
from fedsag_cli.processes.kill import kill_group
from fedsag_cli.processes.ray.left import end_process, private_folder
from fedsag_cli.processes.ray.messages import TOKENS, FromDriver, Joined, Node, Refused, Settings, ToDriver
from fedsag_cli.wire.channel import UnixChannel
from fedsag_cli.wire.messages import ADDRESS

_LONGEST = 40  # bytes; to the names of its sockets, Ray adds 66 of at most 107
_TOKEN_OF_RAY = "RAY_AUTH"


def main() -> NoReturn:
    """Run in a new interpreter. Arguments: FD SETTINGS; FD is a socket to the parent. The environment is the run's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    threading.excepthook = end_process
    channel: UnixChannel[FromDriver, ToDriver] = UnixChannel(socket.socket(fileno=int(sys.argv[1])), ToDriver)
    settings = msgspec.json.decode(sys.argv[2], type=Settings)
    env = {name: value for name, value in os.environ.items() if not name.startswith(_TOKEN_OF_RAY)}
    try:
        with private_folder("fedsag-ray-", longest=_LONGEST) as folder:
            os.chdir(folder)  # Ray would have the nodes import from the current folder
            _set_environment(settings.address)
            joined = threading.Event()
            threading.Thread(target=_end_with_parent, args=(channel, joined), daemon=True).start()
            _run(channel, settings, folder, env, joined)
    except (FedsagError, OSError) as error:
        refused = error if isinstance(error, FedsagError) else of_system(error)
        assert refused is not None
        channel.send(Refused(refused.message, refused.hint, refused.exit_code))
    os._exit(0)


def _set_environment(address: str) -> None:
    """Set what Ray reads when it is imported."""
    os.environ.pop("RAY_ADDRESS", None)  # only --address names a cluster
    name, _, value = TOKENS.partition("=")
    os.environ[name] = value
    if not address:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  Ray spells it so; the clients are as nice as its workers


def _end_with_parent(channel: UnixChannel[FromDriver, ToDriver], joined: threading.Event) -> None:
    """Until all nodes have joined, end this process, and what it has started of Ray, as soon as the parent ends."""
    poll = select.poll()
    poll.register(channel, 0)
    poll.poll()
    if not joined.is_set():  # later, the nodes are told first
        kill_group(os.getpgrp())


def _run(
    channel: UnixChannel[FromDriver, ToDriver],
    settings: Settings,
    folder: Path,
    env: dict[str, str],
    joined: threading.Event,
) -> None:
    from fedsag_cli.processes.ray import cluster
    from fedsag_cli.processes.ray.head import Head
    from fedsag_cli.processes.ray.node import here
    from fedsag_cli.processes.ray.relay import Relay

    there = here(settings.root)
    with cluster.agents(settings.address, folder, there, env, fork=settings.fork) as placed:
        joined.set()
        nodes = [Node(name=each.name, gpus=each.here.gpus) for each in placed]
        channel.send(Joined(nodes, list(cluster.notes(placed, there))))
        root = Path(settings.root)
        Head(channel, root, Relay(env[ADDRESS], root / ".fedsag"), [(each.name, each.actor) for each in placed]).run()
