"""`fedsag simulator JOB --debug SITE`: one client runs in the foreground, where pdb reads and writes."""

import os
import pty
import select
import subprocess
import termios

import pytest
from runs import FEDSAG, LIMIT_S, fedsag, job, run

BREAKS = """
    import time
    import fedsag_cli.client as flare

    flare.init()
    while flare.is_running():
        model = flare.receive()
        site = flare.get_site_name()
        breakpoint()
        params = {k: v + int(site[-1]) for k, v in model.params.items()}
        flare.send(flare.FLModel(params=params, metrics={"mean": 1.0}))
"""
HALF_A_SECOND = "import time; time.sleep(0.5)"


@pytest.mark.slow
def test_one_client_has_the_standard_streams_and_the_model_is_the_same_bit_for_bit(tmp_path):
    made = job(tmp_path / "job", BREAKS, train_timeout=0.3)
    (tmp_path / "typed").write_text(f"p 'at', site\n{HALF_A_SECOND}\nc\np model.current_round + 40\nc\n")

    plain = run(made, "-n", 3, "-t", 1, "--seed", 1, workspace=tmp_path / "ws", env={"PYTHONBREAKPOINT": "0"})
    with (tmp_path / "typed").open() as typed:
        debugged = run(
            made, "-n", 3, "-t", 1, "--seed", 1, "--debug", "site-2", workspace=tmp_path / "ws2", stdin=typed
        )

    assert plain.code == debugged.code == 0, debugged
    assert "(Pdb) ('at', 'site-2')" in debugged.out
    assert "(Pdb) 41" in debugged.out
    assert debugged.out.count("(Pdb)") == 5  # one for each line: the others do not stop
    assert debugged.report["digest"] == plain.report["digest"]
    assert debugged.failures() == {}
    assert debugged.log("site-2") == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ends", "why"),
    [("quit", b"site-1 failed in train: bdb.BdbQuit"), ("other", b"site-2 failed in train: ValueError")],
)
def test_a_client_that_ends_at_its_prompt_leaves_the_terminal_as_it_was(tmp_path, ends, why):
    """It quits the debugger, or the run ends because another client fails while this one reads a line."""
    waits = """
        import pathlib, time
        import fedsag_cli.client as flare

        flare.init()
        flare.receive()
        if flare.get_site_name() == "site-2":
            while not pathlib.Path("../../../../at_prompt").exists():
                time.sleep(0.05)
            raise ValueError("another")
        breakpoint()
    """
    made = job(tmp_path / "job", waits)
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    process = subprocess.Popen(
        [FEDSAG, "simulator", made, "-w", tmp_path / "ws", "-n", "2", "-t", "2", "--strict", "--debug", "site-1"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=os.environ | {"TERM": "xterm"},
    )
    shown = b""
    try:
        while b"(Pdb) " not in shown:
            assert select.select([master], [], [], LIMIT_S)[0], shown
            shown += os.read(master, 1 << 16)
        if ends == "quit":
            os.write(master, b"q\n")
        else:
            (tmp_path / "at_prompt").touch()
        while process.poll() is None:
            if select.select([master], [], [], 0.1)[0]:
                shown += os.read(master, 1 << 16)
        assert process.wait(timeout=LIMIT_S) == 4, shown
        assert termios.tcgetattr(slave) == before
    finally:
        process.kill()
        os.close(master)
        os.close(slave)

    assert why in shown
    assert b"\x1b[?25l" not in shown  # nothing is drawn over what the client prints


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--debug"], "requires an argument"),
        (["--debug", "-n", "2"], "--debug needs the name of a client"),
        (["-n", "2", "--debug", "site-one"], "--debug site-one: there is no such client"),
        (["-n", "2", "--workers", "--debug", "site-1"], "--no-workers"),
        (["-n", "2", "--format", "json", "--debug", "site-1"], "exclude each other"),
    ],
)
def test_a_client_that_cannot_be_debugged_is_an_error_before_anything_starts(tmp_path, words, says):
    job(tmp_path / "job", BREAKS)

    refused = fedsag("simulator", "job", "-w", "ws", *words, cwd=tmp_path)

    assert refused.code == 2
    assert says in refused.out + refused.err
    assert not (tmp_path / "ws").exists()
