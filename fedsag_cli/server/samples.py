"""Says once how many samples each site trains on, where the scripts tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fedsag_cli.events import Event, Notice, ReplyAccepted, RoundFinished

_SHOWN = 5


class Samples:
    """An observer: at the end of the first round it tells what the sites of this round have."""

    def __init__(self, emit: Callable[[Event], None]) -> None:
        self._emit = emit
        self._of: dict[str, int] = {}
        self._was_told = False

    def on(self, event: Event) -> None:
        if self._was_told:
            return
        match event:
            case ReplyAccepted(num_samples=int(number)):
                self._of[event.site] = number
            case RoundFinished() if self._of:
                self._was_told = True
                self._emit(Notice(text=f"samples: {described(self._of)}"))


def described(samples: Mapping[str, int]) -> str:
    """The numbers of samples of some sites on a line: of many sites, from the fewest to the most."""
    if len(samples) <= _SHOWN:
        return ", ".join(f"{site} {number:,}" for site, number in samples.items())
    fewest, most = min(samples.values()), max(samples.values())
    each = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
    return f"{each} at each of {len(samples):,} sites, {sum(samples.values()):,} in all"
