"""Runs the user's script in a forked process, exactly as `python -u train.py ARGS` would."""

from __future__ import annotations

import atexit
import builtins
import gc
import importlib.machinery
import importlib.util
import io
import itertools
import linecache
import os
import sys
import threading
import traceback
import types
from pathlib import Path

import fedsag_cli
from fedsag_cli.client import threads
from fedsag_cli.client.seeding import streams
from fedsag_cli.interop import shim
from fedsag_cli.processes.child import EndMessage, preload, send_end_message, show_stack_when_stopped
from fedsag_cli.wire.messages import PRELOAD, SEED, SITE

_FILE = io.IOBase.__mro__[1]  # of every file; io.IOBase itself would ask all its subclasses


def run(path: str, *argv: str) -> int:
    """Run the script at the absolute `path` to its end, and return its exit code.

    `path` may also be the name of a module, which then runs as with `python -m` in the app's folder.
    The order is Python's: the script, joining of threads, atexit, flushing of files. Tracebacks show the user's frames.
    """
    show_stack_when_stopped()
    preload(
        os.environ[PRELOAD].split(",")
    )  # forked clients have them already; spawned clients need them for the same random numbers
    streams(int(os.environ[SEED]), os.environ.get(SITE, ""))
    threads.follow()
    folder = Path(path).parent if Path(path).is_absolute() else Path.cwd()
    path = path if Path(path).is_absolute() else str(importlib.util.find_spec(path).origin)  # type: ignore[union-attr]
    sys.argv = [path, *argv]
    _put_first_in_path(str(folder))
    shim.install()
    main = _fresh_main(path)
    code = _execute(path, main, str(folder))
    try:
        threading._shutdown()  # type: ignore[attr-defined]  # as the interpreter does: joins all threads but daemons
        atexit._run_exitfuncs()
    finally:
        _delete_names(main)
        _flush_open_files()
    return code


def _execute(path: str, main: types.ModuleType, folder: str) -> int:
    """`folder`: with the user's modules, whose lines an error names."""
    try:
        code = compile(Path(path).read_bytes(), path, "exec", dont_inherit=True)
        exec(code, main.__dict__)
    except SystemExit as leaving:
        return _exit_code(leaving, path, folder)
    except BaseException as error:
        _report(error, path, folder)
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _exit_code(leaving: SystemExit, path: str, folder: str) -> int:
    if leaving.code is None:
        return 0
    where = _where(_users_frames(leaving, path), folder)
    if isinstance(leaving.code, int):
        if leaving.code:
            send_end_message(EndMessage(error=f"the script called sys.exit({leaving.code})", where=where))
        return leaving.code & 0xFF
    print(leaving.code, file=sys.stderr)  # noqa: T201  as Python does with a text
    send_end_message(EndMessage(error=f"the script called sys.exit: {leaving.code}", where=where))
    return 1


def _report(error: BaseException, path: str, folder: str) -> None:
    frames = _users_frames(error, path)
    error = error.with_traceback(frames)
    where = _where(frames, folder)
    if isinstance(error, SyntaxError) and error.filename:
        where = f"{error.filename}:{error.lineno}"
        message = f"{type(error).__name__}: {error.msg}"  # without the line, which is in `where`
    else:
        message = "".join(traceback.format_exception_only(error)).strip()
    send_end_message(EndMessage(error=message, where=where))
    try:
        sys.excepthook(type(error), error, frames)
    except Exception as second:  # the script's own hook failed: Python prints both errors
        print("Error in sys.excepthook:", file=sys.stderr)  # noqa: T201
        second.__context__ = None if second.__context__ is error else second.__context__
        traceback.print_exception(second.with_traceback(_users_frames(second, path)))
        print("\nOriginal exception was:", file=sys.stderr)  # noqa: T201
        traceback.print_exception(error)


def _users_frames(error: BaseException, path: str) -> types.TracebackType | None:
    """The traceback without the frames before the script's first; None if the script did not start."""
    frames = error.__traceback__
    while frames and frames.tb_frame.f_code.co_filename != path:
        frames = frames.tb_next
    return frames


def _where(frames: types.TracebackType | None, folder: str) -> str:
    """file:line of the deepest frame in this folder."""
    found = ""
    while frames:
        file = frames.tb_frame.f_code.co_filename
        if file.startswith(folder):
            found = f"{file}:{frames.tb_lineno}"
        frames = frames.tb_next
    return found


def _fresh_main(path: str) -> types.ModuleType:
    main = types.ModuleType("__main__")
    main.__dict__.update(
        __file__=path,
        __builtins__=builtins,
        __cached__=None,
        __loader__=importlib.machinery.SourceFileLoader("__main__", path),
    )
    sys.modules["__main__"] = sys.modules["__mp_main__"] = main
    linecache.checkcache()
    return main


def _put_first_in_path(folder: str) -> None:
    """Put the script's folder and PYTHONPATH first, as Python does. Modules that they shadow are imported again."""
    given = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    first = [folder, *(str(Path(entry).absolute()) for entry in given)]
    new = [entry for entry in dict.fromkeys(first) if entry not in sys.path]  # the others were in sys.path before
    sys.path[:] = first + [entry for entry in sys.path if entry not in first]
    for entry in first:  # what was there when the nursery started need not be all
        sys.path_importer_cache.pop(entry, None)  # only these: to list all folders anew takes time, and 4 MB
    for name in itertools.chain.from_iterable(map(_modules_in, new)):
        if name == fedsag_cli.__name__:
            continue  # an exported job contains a package of this name
        loaded = sys.modules.get(name)
        if loaded is not None and getattr(loaded.__spec__, "origin", None) not in ("built-in", "frozen"):
            for inner in [key for key in sys.modules if key == name or key.startswith(name + ".")]:
                del sys.modules[inner]


def _modules_in(folder: str) -> list[str]:
    if not Path(folder).is_dir():
        return []
    with os.scandir(folder) as found:
        return [
            entry.name.removesuffix(".py")
            for entry in found
            if entry.name.endswith(".py") or (entry.is_dir() and Path(entry.path, "__init__.py").exists())
        ]


def _delete_names(main: types.ModuleType) -> None:
    """Delete the script's objects, the last one first, so that a `__del__` still finds earlier names."""
    threading.excepthook = lambda _: None  # a daemon thread that misses a name now is not the user's error
    for name in reversed(list(main.__dict__)):
        main.__dict__.pop(name, None)


def _flush_open_files() -> None:
    for found in gc.get_objects():  # without the nursery's objects, which are frozen
        if issubclass(type(found), _FILE):
            try:
                if not found.closed and found.writable():
                    found.flush()
            except (OSError, ValueError):
                pass
