"""What the command's process and Ray's driver tell each other, and what the driver and the agents of the nodes do."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from fedsag_cli.processes.child import ProcessSpec
from fedsag_cli.processes.nursery import End, Preload, Stop

TOKENS = "RAY_AUTH_MODE=token"
"""The setting with which Ray takes no connection without the cluster's token."""


def with_reason(text: str, reason: str) -> str:
    """The text, with the reason if there is one."""
    return f"{text}: {reason}" if reason else text


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the driver is started with. `address`: of a Ray cluster; empty: Ray starts on this machine, for this run."""

    address: str
    root: str  # the workspace
    fork: bool


class Launch(msgspec.Struct, frozen=True, tag=True):
    """Start a process on its node."""

    spec: ProcessSpec


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A machine with an agent. `gpus`: how many it has; None if that is not known."""

    name: str
    gpus: int | None = None


class Joined(msgspec.Struct, frozen=True, tag=True):
    """The agents of all nodes are there. `notes`: what the user should know of the nodes."""

    nodes: list[Node]
    notes: list[str] = []


class Refused(msgspec.Struct, frozen=True, tag=True):
    """There will be no nodes, for this reason; `exit_code` is that of the error."""

    message: str
    hint: str
    exit_code: int


class Happened(msgspec.Struct, frozen=True, tag=True):
    """An event of a process, as `events.to_line` writes it."""

    line: bytes


ToDriver = Preload | Launch | End | Stop
FromDriver = Joined | Refused | Happened


# between the driver and an agent; `link` is the number of a client's connection on that node


class Blob(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a file that goes to a node: `data`, if it is small, else `ref` to it in Ray's object store.

    Blobs with one `key` have the same content: a node fetches it once.
    """

    key: int
    data: bytes = b""
    ref: Any = None


class Files(msgspec.Struct, frozen=True):
    """Files for a node: path in the workspace, mode, content."""

    files: list[tuple[str, int, bytes]]


class ToClient(msgspec.Struct, frozen=True):
    """A message for a client, and the files that go with it."""

    link: int
    body: bytes
    blobs: list[Blob]


class EndLink(msgspec.Struct, frozen=True):
    """The server sends this client no more messages."""

    link: int


class CloseLink(msgspec.Struct, frozen=True):
    """The server has closed the connection of this client."""

    link: int


ToNode: TypeAlias = Preload | Files | Launch | End | ToClient | EndLink | CloseLink


class Opened(msgspec.Struct, frozen=True):
    """A process on the node has connected."""

    link: int


class FromClient(msgspec.Struct, frozen=True):
    """A message of a client, and the contents of the files that came with it: a `Buffer` for each."""

    link: int
    body: bytes
    files: list[Any]


class Closed(msgspec.Struct, frozen=True):
    """A client has closed its connection."""

    link: int


class Logged(msgspec.Struct, frozen=True):
    """What a log has more than before. `path`: in the workspace."""

    path: str
    data: bytes


class Told(msgspec.Struct, frozen=True):
    """An event of the node's engine, as `events.to_line` writes it."""

    line: bytes


class Stopped(msgspec.Struct, frozen=True):
    """All processes of the node have ended, and everything of them has been told."""


FromNode: TypeAlias = Opened | FromClient | Closed | Logged | Told | Stopped


class Here(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine has of its own: where this run's files, fedsag and Python are, and the versions of those."""

    root: str
    package: str
    python: str
    versions: dict[str, str]
    host: str = ""
    gpus: int | None = None
