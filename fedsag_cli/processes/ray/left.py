"""A private folder that is removed when its process ends, in whatever way."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# It is nobody's child, so what kills this process and its children leaves it. Others may still write as it begins.
_REMOVE = """
exec 3<&0
(
    read nothing
    for again in 1 2 3 4 5 6 7 8 9 10; do rm -rf "$0"; [ -e "$0" ] || exit; sleep 0.5; done
) <&3 &
"""


def end_process(failed: threading.ExceptHookArgs) -> None:
    """For `threading.excepthook`: without this thread, others would wait for ever."""
    sys.excepthook(failed.exc_type, failed.exc_value or failed.exc_type(), failed.exc_traceback)
    os._exit(1)


@contextmanager
def private_folder(prefix: str, *, longest: int = 1000) -> Iterator[Path]:
    """A new folder that only this user can read, with a path of at most `longest` bytes if possible. Raises OSError."""
    usual = os.fsencode(tempfile.gettempdir())
    place = None if len(usual) + len(prefix) + 10 <= longest else "/tmp"
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place)).resolve()
    reading, writing = os.pipe()
    try:
        subprocess.run(
            ["/bin/sh", "-c", _REMOVE, str(folder)],
            check=True,
            cwd="/",
            env={"PATH": os.defpath},  # without the mark of the run, by which its processes are killed
            stdin=reading,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.close(writing)  # the shell reads the end of the pipe
        os.close(reading)
