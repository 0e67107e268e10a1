"""The contract of a channel: typed messages both ways, each with a file beside it where there is one."""

from __future__ import annotations

from typing import Protocol, TypeVar

Out = TypeVar("Out", contravariant=True)
In = TypeVar("In", covariant=True)


class Channel(Protocol[Out, In]):
    """One end of a connection that has said its hello."""

    def send(self, message: Out, file: int | None = None) -> None:
        """Hand `message` over, with the descriptor of its file; the caller keeps its own. Raises ChannelClosed."""

    def receive(self, timeout_s: float | None = None) -> tuple[In, int | None]:
        """The next message and its file's descriptor, which is now the caller's.

        Raises ChannelClosed, or TimeoutError where no message begins within `timeout_s` seconds.
        """

    def close(self) -> None:
        """The other end sees ChannelClosed. Closing twice is fine."""
