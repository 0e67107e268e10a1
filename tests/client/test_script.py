"""A client's script gets what `python -u train.py ARGS` gives: Python itself is the first of three that must agree."""

import gzip
import itertools
import json
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedsag_cli.events import Failure, ProcessExited
from fedsag_cli.processes.child import ProcessSpec
from fedsag_cli.processes.local import LocalEngine
from fedsag_cli.wire.messages import PRELOAD, SEED, SITE

LIMIT_S = 60
_numbers = itertools.count()


@dataclass
class Ran:
    """A script that came to its end."""

    code: int
    log: str
    folder: Path
    failure: Failure | None = None

    @property
    def facts(self):
        return json.loads(self.log)


def spec_of(folder, text, *args, script="train.py", files=None, env=None, fresh=False):
    custom = folder / "custom"
    for name, content in {script: text, **(files or {})}.items():
        (custom / name).parent.mkdir(parents=True, exist_ok=True)
        (custom / name).write_text(textwrap.dedent(content))
    ours = {PRELOAD: "", SEED: "1", SITE: "site-1", "PYTHONPATH": str(custom), "PYTHONUNBUFFERED": "1"}
    return ProcessSpec(
        name=f"site-{next(_numbers)}",
        target="fedsag_cli.client.script:run",
        args=[str(custom / script), *args],
        env=dict(os.environ) | ours | (env or {}),
        cwd=str(folder),
        log=str(folder / "log.txt"),
        fresh=fresh,
    )


def with_python(folder, text, *args, **settings):
    spec = spec_of(folder, text, *args, **settings)
    with open(spec.log, "w") as log:
        done = subprocess.run(
            [sys.executable, "-u", *spec.args],
            env=spec.env,
            cwd=spec.cwd,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            timeout=LIMIT_S,
        )
    return Ran(done.returncode, Path(spec.log).read_text(), folder)


def with_engine(engine):
    def with_it(folder, text, *args, **settings):
        spec = spec_of(folder, text, *args, **settings)
        engine.start(spec)
        while True:
            event = engine.next_event(timeout_s=LIMIT_S)
            if isinstance(event, ProcessExited) and event.name == spec.name:
                return Ran(event.exit_code, Path(spec.log).read_text(), folder, event.failure)

    return with_it


@pytest.fixture(scope="module")
def launchers():
    engines = {"fork": LocalEngine(fork=True, env=os.environ), "spawn": LocalEngine(fork=False, env=os.environ)}
    yield {"python": with_python} | {name: with_engine(engine) for name, engine in engines.items()}
    for engine in engines.values():
        engine.stop(grace_s=0.0)


@pytest.fixture(params=["python", "fork", "spawn"])
def run(request, launchers, tmp_path):
    """Run a script by Python itself, in a forked client, in a spawned one."""
    return lambda text, *args, **settings: launchers[request.param](tmp_path, text, *args, **settings)


@pytest.fixture(params=["fork", "spawn"])
def both(request, launchers, tmp_path):
    """Run a script by Python and by a launcher, in the same folder; what each came to."""

    def run_both(text, *args, **settings):
        theirs = launchers["python"](tmp_path, text, *args, **settings)
        (tmp_path / "log.txt").unlink()
        return theirs, launchers[request.param](tmp_path, text, *args, **settings)

    return run_both


def test_the_script_is_the_main_module_with_its_arguments(run, tmp_path):
    ran = run(
        """
        '''What it does.'''
        import json, os, sys
        main = sys.modules["__main__"]
        print(json.dumps({
            "argv": sys.argv, "name": __name__, "file": __file__, "cwd": os.getcwd(), "first": sys.path[0],
            "doc": __doc__, "is_main": main.__dict__ is globals(), "spec": __spec__, "package": __package__,
            "pythonpath": os.environ["PYTHONPATH"],
        }))
        """,
        "--epochs",
        "two words",
        "",
    )

    path = str(tmp_path / "custom" / "train.py")
    assert ran.code == 0
    assert ran.facts == {
        "argv": [path, "--epochs", "two words", ""],
        "name": "__main__",
        "file": path,
        "cwd": str(tmp_path),
        "first": str(tmp_path / "custom"),
        "doc": "What it does.",
        "is_main": True,
        "spec": None,
        "package": None,
        "pythonpath": str(tmp_path / "custom"),
    }


def test_it_finds_what_python_would_find(both):
    theirs, ours = both(
        """
        import gc, json, logging, os, signal, sys, threading
        stack_signals = "SIGRTMAX SIGSEGV SIGBUS SIGFPE SIGILL SIGABRT".split()
        shown = sum(1 << getattr(signal, name) - 1 for name in stack_signals)
        status = dict(line.split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
        print(json.dumps({
            "path": sys.path,
            "environ": {name: value for name, value in os.environ.items() if name != "_"},
            "globals": sorted(globals().keys() - {"__annotations__"}),
            "streams": [[each.name, each.encoding, each.errors, each.mode, each.isatty(), each.closed]
                        for each in (sys.stdout, sys.stderr, sys.stdin)],
            "unbuffered": [type(each.buffer).__name__ for each in (sys.stdout, sys.stderr)],
            "original": sys.stdout is sys.__stdout__ and sys.stderr is sys.__stderr__ and sys.stdin is sys.__stdin__,
            "signals": {each.name: str(signal.getsignal(each)) for each in signal.Signals
                        if each not in (signal.SIGINT,)},
            "interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
            "wakeup": signal.set_wakeup_fd(-1),
            # without 32 and 33, the C library's own, which numpy's threads have set up, and those that show a stack
            "mask": [int(status[name], 16) & ~(3 << 31) & ~shown for name in ("SigBlk", "SigIgn", "SigCgt")],
            "threads": threading.active_count(),
            "main_thread": threading.current_thread() is threading.main_thread(),
            "gc": [gc.isenabled(), gc.get_threshold()],
            "log_handlers": len(logging.root.handlers),
            "excepthook": sys.excepthook is sys.__excepthook__,
            "umask": os.umask(0o22),
            "torch": "torch" in sys.modules,
        }))
        """
    )

    assert ours.facts == theirs.facts


@pytest.mark.parametrize("fresh", [False, True])
def test_where_it_must_a_script_gets_an_interpreter_of_its_own(launchers, tmp_path, fresh):
    """The nursery forks the others: their parent's command line is theirs."""
    ran = launchers["fork"](tmp_path, "print(open('/proc/self/cmdline').read())", fresh=fresh)

    assert ("processes.child import main" in ran.log) == fresh


@pytest.mark.parametrize("given", ["1", "2"])
def test_numpys_threads_are_those_of_the_run_or_of_the_script_though_it_is_imported_before(both, given):
    theirs, ours = both(
        """
        import os, sys
        if sys.argv[1] == "2":
            os.environ["OMP_NUM_THREADS"] = "1"
        import ctypes, json, pathlib
        import numpy
        file, = (pathlib.Path(numpy.__file__).parents[1] / "numpy.libs").glob("lib*openblas*")
        print(json.dumps(ctypes.CDLL(str(file)).scipy_openblas_get_num_threads64_()))
        """,
        given,
        env={"OMP_NUM_THREADS": given},
    )

    assert theirs.facts == ours.facts == 1


def test_the_threads_of_a_scipy_that_was_imported_before_are_those_of_the_run(tmp_path):
    pytest.importorskip("scipy.linalg", reason="scipy is not installed")
    text = """
        import ctypes, json, pathlib, scipy.linalg
        file, = (pathlib.Path(scipy.__file__).parents[1] / "scipy.libs").glob("lib*openblas*")
        print(json.dumps(ctypes.CDLL(str(file)).scipy_openblas_get_num_threads()))
    """

    engine = LocalEngine(fork=True, env=os.environ)
    engine.prepare(["scipy.linalg"])

    ran = with_engine(engine)(tmp_path, text, env={"OMP_NUM_THREADS": "2"})

    engine.stop(grace_s=0.0)
    assert ran.facts == 2


@pytest.mark.parametrize("given", [1, 2])
def test_numpy_starts_as_many_threads_as_the_run_gives_a_script_and_no_others(both, given):
    """One that the nursery had, and that is started anew in each client, would spin beside the training."""
    theirs, ours = both(
        """
        import json, os
        import numpy
        numpy.ones((300, 300)) @ numpy.ones((300, 300))
        print(json.dumps(len(os.listdir("/proc/self/task"))))
        """,
        env={"OMP_NUM_THREADS": str(given)},
    )

    assert theirs.facts == ours.facts == given


def test_standard_input_is_empty(run):
    assert run("import sys; print(repr(sys.stdin.read()), repr(sys.stdin.readline()))").log == "'' ''\n"


def test_input_says_that_there_is_none(both):
    theirs, ours = both("print('x')\ninput()")

    assert (ours.code, ours.log) == (theirs.code, theirs.log)


def test_it_has_a_session_of_its_own(run):
    ran = run("import os; print(os.getsid(0) == os.getpid() == os.getpgid(0))")

    assert ran.log == "True\n"


def test_it_holds_no_descriptor_of_anybody_else(launchers, tmp_path):
    engine = launchers["fork"]
    outsider = os.open(tmp_path, os.O_RDONLY)

    ran = engine(
        tmp_path,
        """
        import json, os
        found = {}
        for name in os.listdir("/proc/self/fd"):
            try:
                found[name] = os.readlink(f"/proc/self/fd/{name}").split(":")[0]
            except FileNotFoundError:
                pass
        print(json.dumps(found))
        """,
    )

    os.close(outsider)
    log = str(tmp_path / "log.txt")
    assert ran.facts == {"0": "/dev/null", "1": log, "2": log, "3": "pipe"}


def test_what_it_prints_is_in_the_log_at_once_and_in_order(run):
    ran = run(
        """
        import os, sys
        print("one")
        os.write(2, b"two\\n")
        print("three", file=sys.stderr)
        sys.stdout.write("four ")
        os.system("echo five")
        print("ä ✓", end="")
        os.kill(os.getpid(), 9)
        """
    )

    assert (ran.code, ran.log) == (-9, "one\ntwo\nthree\nfour five\nä ✓")


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        ("sys.exit()", 0, ""),
        ("sys.exit(0)", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("sys.exit(-1)", 255, ""),
        ("sys.exit(True)", 1, ""),
        ("sys.exit('no data')", 1, "no data\n"),
        ("sys.exit((1, 2))", 1, "(1, 2)\n"),
        ("exit(4)", 4, ""),
        ("os._exit(5)", 5, ""),
        ("os.kill(os.getpid(), 15)", -15, ""),
    ],
)
def test_its_exit_code_and_last_words_are_pythons(run, how, code, said):
    ran = run(f"import os, sys\n{how}")

    assert (ran.code, ran.log) == (code, said)


def test_an_exit_code_comes_with_the_line_that_asked_for_it(both, tmp_path):
    _, ours = both("import sys\n\ndef main():\n    sys.exit(3)\n\nmain()\n")

    assert ours.failure.cause == "the script called sys.exit(3)"
    assert ours.failure.where == f"{tmp_path}/custom/train.py:4"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("def f():\n    return 1 / 0\n\nf()\n", id="an error"),
        pytest.param("import json\njson.loads('{')\n", id="in a library"),
        pytest.param("import helper\nhelper.fails()\n", id="in a module beside"),
        pytest.param("try:\n    {}['a']\nexcept KeyError as e:\n    raise ValueError('b') from e\n", id="with a cause"),
        pytest.param("try:\n    {}['a']\nexcept KeyError:\n    [][1]\n", id="while another is handled"),
        pytest.param("x = 1\nif x\n    pass\n", id="a syntax error"),
        pytest.param("import broken\n", id="a syntax error beside"),
        pytest.param("import nowhere\n", id="a missing module"),
        pytest.param("assert False, 'an assertion'\n", id="an assertion"),
        pytest.param("import sys\nsys.excepthook = lambda *e: print('hooked', e[0].__name__)\n1 / 0\n", id="hooked"),
        pytest.param("import sys\nsys.excepthook = None\n1 / 0\n", id="no hook"),
        pytest.param("class E(Exception):\n    def __str__(self): raise OSError\n\nraise E\n", id="without a text"),
    ],
)
def test_a_traceback_is_pythons_own_to_the_letter(both, text):
    beside = {"helper.py": "def fails():\n    raise RuntimeError('helper')\n", "broken.py": "def (:\n"}
    theirs, ours = both(text, files=beside)

    assert ours.log == theirs.log
    assert ours.code == theirs.code == 1


@pytest.mark.parametrize(
    ("text", "cause", "where"),
    [
        ("import json\njson.loads('{')\n", "json.decoder.JSONDecodeError: Expecting property name", "train.py:2"),
        ("import helper\nhelper.fails()\n", "RuntimeError: helper", "helper.py:2"),
        ("x = 1\nif x\n    pass\n", "SyntaxError: expected ':'", "train.py:2"),
        ("import broken\n", "SyntaxError: ", "broken.py:1"),
        ("import sys\nsys.exit('no data')\n", "the script called sys.exit: no data", "train.py:2"),
    ],
)
def test_the_failure_names_the_error_and_the_users_deepest_line(both, tmp_path, text, cause, where):
    beside = {"helper.py": "def fails():\n    raise RuntimeError('helper')\n", "broken.py": "def (:\n"}
    _, ours = both(text, files=beside)

    assert cause in ours.failure.cause
    assert ours.failure.where == f"{tmp_path}/custom/{where}"


def test_the_end_comes_in_pythons_order(both):
    theirs, ours = both(
        """
        import atexit, threading, time, weakref

        class Closes:
            def __init__(self, name):
                self.name = name
            def __del__(self):
                print("deleted", self.name, time.time() > 0)

        def late():
            threading.main_thread().join()
            print("a thread")

        atexit.register(print, "atexit 1")

        @atexit.register
        def fails():
            1 / 0

        atexit.register(print, "atexit 3")
        kept = Closes("kept")
        finalized = weakref.finalize(kept, print, "finalized")
        threading.Thread(target=late).start()
        print("main")
        """
    )

    assert re.sub("0x[0-9a-f]+", "", ours.log) == re.sub("0x[0-9a-f]+", "", theirs.log)
    assert ours.log.startswith("main\na thread\nfinalized\natexit 3\n")
    assert ours.log.endswith("deleted kept True\n")


def test_an_error_and_an_exit_still_end_in_order(both):
    theirs, ours = both(
        """
        import atexit, sys, threading, time
        atexit.register(print, "atexit")
        threading.Thread(target=lambda: (time.sleep(0.1), print("a thread"))).start()
        sys.exit(7)
        """
    )

    assert (ours.code, ours.log) == (theirs.code, theirs.log) == (7, "a thread\natexit\n")


def test_an_error_in_a_thread_is_told_and_ends_nothing(both):
    theirs, ours = both(
        """
        import threading

        def fails():
            raise ValueError("in a thread")

        threading.Thread(target=fails, name="worker").start()
        """
    )

    assert (ours.code, ours.log) == (theirs.code, theirs.log)
    assert ours.code == 0


def test_a_daemon_thread_is_not_waited_for_and_says_nothing_at_the_end(run):
    ran = run(
        """
        import math, threading, time

        def spins():
            while True:
                math.sqrt(time.time())

        for _ in range(3):
            threading.Thread(target=spins, daemon=True).start()
        waste = [[] for _ in range(300_000)]
        print("done")
        """
    )

    assert (ran.code, ran.log) == (0, "done\n")


def test_pools_are_ended(run):
    ran = run(
        """
        import atexit
        from concurrent.futures import ThreadPoolExecutor

        pool = ThreadPoolExecutor(2)
        pool.submit(__import__("time").sleep, 0.1).add_done_callback(lambda _: print("worked"))
        """
    )

    assert (ran.code, ran.log) == (0, "worked\n")


def test_files_left_open_are_written(run):
    ran = run(
        """
        import gzip, logging, sys, tempfile, types

        held = open("held.txt", "w")
        held.write("held")
        loop = types.SimpleNamespace(file=open("loop.txt", "w"))
        loop.itself = loop
        loop.file.write("loop")
        sys.elsewhere = open("elsewhere.txt", "w")
        sys.elsewhere.write("elsewhere")
        packed = gzip.open("packed.gz", "wt")
        packed.write("packed")
        logging.basicConfig(filename="logged.txt")
        logging.warning("logged")
        scratch = tempfile.TemporaryDirectory()
        print(scratch.name)
        """
    )

    assert (ran.folder / "held.txt").read_text() == "held"
    assert (ran.folder / "loop.txt").read_text() == "loop"
    assert (ran.folder / "elsewhere.txt").read_text() == "elsewhere"
    assert (ran.folder / "logged.txt").read_text() == "WARNING:root:logged\n"
    assert gzip.decompress((ran.folder / "packed.gz").read_bytes()) == b"packed"
    assert not Path(ran.log.splitlines()[0]).exists()


@pytest.mark.parametrize("name", ["data", "selectors", "socket", "tempfile", "fsspec", "jinja2"])
def test_a_module_of_custom_wins_over_one_that_was_there(run, name):
    ran = run(f"import {name}; print({name}.__file__, {name}.WHOSE)", files={f"{name}.py": "WHOSE = 'mine'"})

    assert (ran.code, ran.log) == (0, f"{ran.folder}/custom/{name}.py mine\n")


def test_a_package_of_custom_wins_with_its_parts(run):
    ran = run(
        "import email.message, json\nprint(email.message.WHOSE, json.decoder.WHOSE)",
        files={
            "email/__init__.py": "",
            "email/message.py": "WHOSE = 'mine'",
            "json/__init__.py": "from json import decoder",
            "json/decoder.py": "WHOSE = 'mine too'",
        },
    )

    assert (ran.code, ran.log) == (0, "mine mine too\n")


def test_a_script_in_a_folder_of_custom_finds_its_neighbours_and_custom(run):
    ran = run(
        "import selectors, near, far; print(selectors.WHOSE, near.WHOSE, far.WHOSE)",
        script="site/train.py",
        files={"selectors.py": "WHOSE = 'mine'", "far.py": "WHOSE = 'custom'", "site/near.py": "WHOSE = 'site'"},
    )

    assert (ran.code, ran.log) == (0, "mine site custom\n")


def test_classes_of_the_script_can_be_pickled_and_its_source_read(run):
    ran = run(
        """
        import inspect, pickle
        from dataclasses import dataclass

        @dataclass
        class Point:
            x: int = 1

        print(pickle.loads(pickle.dumps(Point(3))), inspect.getsource(Point).splitlines()[1])
        """
    )

    assert (ran.code, ran.log) == (0, "Point(x=3) class Point:\n")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_it_can_start_processes_of_its_own(run, method):
    ran = run(
        f"""
        import multiprocessing as mp

        def square(x):
            return x * x

        if __name__ == "__main__":
            with mp.get_context("{method}").Pool(2) as pool:
                print(pool.map(square, range(4)))
        """
    )

    assert (ran.code, ran.log) == (0, "[0, 1, 4, 9]\n")


def test_a_process_left_running_is_joined_as_python_does(run):
    ran = run(
        """
        import multiprocessing as mp, time

        def late():
            time.sleep(0.2)
            print("late")

        mp.get_context("fork").Process(target=late).start()
        print("main")
        """
    )

    assert (ran.code, ran.log) == (0, "main\nlate\n")


def test_numpy_works_with_all_cores_after_the_fork(run):
    ran = run("import numpy as np; print(np.ones((900, 900)) @ np.ones((900, 900)) @ np.ones(900) == 810000)")

    assert (ran.code, set(ran.log.split()) - {"[", "]", "...", "[True", "True]"}) == (0, {"True"})
