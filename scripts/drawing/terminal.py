"""README's picture: a real run in a terminal, in the middle of its training.

It knows nothing of the view. It runs the command on a pseudo-terminal, and draws what stands there at that moment.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from itertools import groupby
from pathlib import Path

import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

from fedsag_cli.events import Event, ReplyArrived, from_line

_COLUMNS, _LINES = 92, 40
_CREATE = ["job", "create", "-w", "sag_pt"]
_RUN = ["simulator", "-n", "4", "-t", "2", "--seed", "1"]
_ROUND, _ANSWERS = 3, 2  # the picture is taken when so many clients have answered in this round,
_LATER_S = 1.0  # and the others have worked so long
_LIMIT_S = 300.0
_COLOURS = {"brown": "yellow", "brightblack": "bright_black"}  # pyte's names, and rich's
_FORMAT = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">
<title>A run in a terminal</title>
<style>
.{unique_id}-matrix {{ font: {char_height}px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }}
.{unique_id}-title {{ font: bold 18px system-ui, sans-serif; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal"><rect width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">{matrix}</g>
</g>
</svg>
"""


def run() -> str:
    """The SVG of a run of the template sag_pt, below the two commands that started it."""
    with tempfile.TemporaryDirectory() as folder:
        _in_terminal(_CREATE, Path(folder))
        shown = _in_terminal(_RUN, Path(folder), stop=True)
    console = Console(width=_COLUMNS, record=True, file=io.StringIO())
    for words in (_CREATE, _RUN):
        console.print(Text(f"$ fedsag {' '.join(words)}", "bold"))
    for line in shown:
        console.print(line, no_wrap=True, overflow="crop")
    return console.export_svg(title="fedsag", code_format=_FORMAT, unique_id="t")


def _in_terminal(words: list[str], home: Path, *, stop: bool = False) -> list[Text]:
    """Run `fedsag` with these words in `home`: the screen at its end, or with `stop` at the moment of the picture."""
    screen = pyte.Screen(_COLUMNS, _LINES)
    stream = pyte.ByteStream(screen)
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", _LINES, _COLUMNS, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "JPY_PARENT_PID")}
    process = subprocess.Popen(
        [sys.executable, "-m", "fedsag_cli", *words],
        cwd=home,
        env=env | {"HOME": str(home), "FEDSAG_HOME": str(home / ".fedsag"), "TERM": "xterm-256color"},
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
    )
    os.close(follower)
    ends, taken_at = time.monotonic() + _LIMIT_S, float("inf")
    try:
        while (now := time.monotonic()) < min(ends, taken_at):
            if stop and taken_at == float("inf") and _answers(home) >= _ANSWERS:
                taken_at = now + _LATER_S
            ready, _, _ = select.select([leader], [], [], 0.1)
            try:
                printed = os.read(leader, 65536) if ready else b""
            except OSError:  # the other end is closed
                break
            stream.feed(printed.replace(b"\x1b[2m", b"\x1b[90m"))  # pyte has no dim
        return _lines(screen, str(home))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        os.close(leader)


def _answers(home: Path) -> int:
    """How many clients have answered in the round of the picture."""
    events: list[Event] = []
    with contextlib.suppress(OSError):
        text = (home / "simulator_workspace" / "events.jsonl").read_text()
        events = [from_line(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return sum(isinstance(event, ReplyArrived) and event.round_num == _ROUND for event in events)


def _lines(screen: pyte.Screen, home: str) -> list[Text]:
    """The screen without the empty lines below, and with `~` for the folder that is nobody's home any more."""
    lines = []
    for row in range(_LINES):
        chars = [screen.buffer[row][column] for column in range(_COLUMNS)]
        line = Text()
        for (fg, bold), alike in groupby(chars, key=lambda char: (char.fg, char.bold)):
            colour = None if fg == "default" else _COLOURS.get(fg, fg)
            line.append("".join(char.data for char in alike), Style(color=colour, bold=bold))
        line.rstrip()
        if (at := line.plain.find(home)) >= 0:
            line = line[:at] + Text("~") + line[at + len(home) :]
        lines.append(line)
    while lines and not lines[-1].plain:
        lines.pop()
    return lines
