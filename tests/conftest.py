"""Settings of all tests, and what many of them stand on."""

import atexit
import compileall
import os
import random
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

import fedsag_cli

# The runs of the tests are not runs of who tests.
os.environ["FEDSAG_HOME"] = tempfile.mkdtemp(prefix="fedsag-home-")
atexit.register(shutil.rmtree, os.environ["FEDSAG_HOME"], ignore_errors=True)

# No deadline: two tests run at a time, beside whatever else the machine does. The same examples each time, so that none
# fails for who changed something else. HYPOTHESIS_RANDOM=1 looks for more.
settings.register_profile("here", deadline=None, derandomize="HYPOTHESIS_RANDOM" not in os.environ)
settings.load_profile("here")


def pytest_configure(config):
    """Compile the package once: where PYTHONDONTWRITEBYTECODE is set, each process of each run would do it again."""
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(Path(fedsag_cli.__file__).parent, quiet=1)


@pytest.fixture(autouse=True)
def signals_as_before():
    """A command that a test runs in this process ignores the signals that end it, once its end is known."""
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


@pytest.fixture(scope="module")
def one_thread():
    """No parallel region in this process: another test may fork it, and the child would hang at its first."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def fresh_process(monkeypatch):
    """As if nothing of the Client API had been called yet."""
    import numpy as np

    import fedsag_cli.client as flare
    from fedsag_cli.client import alone, seeding
    from fedsag_cli.wire.messages import ADDRESS, COUNT, INDEX, PROCESS, RUN, SEED, SITE, TOKEN

    monkeypatch.setattr(flare, "_contexts", {})
    monkeypatch.setattr(flare, "_last", [])
    monkeypatch.setattr(seeding, "_streams", {})
    monkeypatch.setattr(random, "seed", random.seed)
    monkeypatch.setattr(np.random, "seed", np.random.seed)
    of_a_run = (ADDRESS, COUNT, INDEX, PROCESS, RUN, SEED, SITE, TOKEN, alone.INITIAL, alone.LOCAL_SITE)
    for name in (*of_a_run, "RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "")  # so that what is set meanwhile goes
        monkeypatch.delenv(name)


@pytest.fixture
def serving(tmp_path_factory, monkeypatch):
    """A server with these words of config_fed_client; the process is a client of it."""
    from fakes import FakeServer

    from fedsag_cli.plan import ClientConfig
    from fedsag_cli.wire.messages import ADDRESS, COUNT, INDEX, SITE, TOKEN

    servers = []

    def serve(**config):
        folder = tmp_path_factory.mktemp("s")
        servers.append(FakeServer(folder, ClientConfig(**config)))
        of_client = {SITE: "site-4", INDEX: "3", COUNT: "5"}
        for name, value in {ADDRESS: str(folder / "s"), TOKEN: "secret", **of_client}.items():
            monkeypatch.setenv(name, value)
        return servers[-1]

    yield serve
    for server in servers:
        server.close()
