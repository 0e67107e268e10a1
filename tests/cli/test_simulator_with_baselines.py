"""`fedsag simulator --baseline`: how the command goes on and ends, with runs that only say how they ended."""

import contextlib

import pytest

from fedsag_cli import cli, simulator
from fedsag_cli.cli import display
from fedsag_cli.errors import Interrupted, RunError
from fedsag_cli.report import Report
from fedsag_cli.simulator import comparing


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Run the command with both baselines, which `ends` ends by kind: the exit code, the output, the runs' options."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(display._Shown, "tracebacks", False)

    def call(ends, *words):
        ran = []

        def simulate(_job, _workspace, options, _observers):
            ran.append(("federated", options))
            return Report(job="fruit", workspace=str(tmp_path), ok=True, final_metrics={"loss": 0.5})

        def run_baseline(kind, _job, _federated, options, _workspace, _observers):
            ran.append((kind, options))
            if kind in ends:
                raise ends[kind]

        monkeypatch.setattr(simulator, "simulate", simulate)
        monkeypatch.setattr(comparing, "run_baseline", run_baseline)
        monkeypatch.setattr(comparing, "held", lambda _: contextlib.nullcontext())
        both = ("--baseline", "centralised", "--baseline", "local")
        monkeypatch.setattr("sys.argv", ["fedsag", "simulator", *both, "--summary", "s.md", *words])
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
        return code, capsys.readouterr(), ran

    return call


def test_a_run_and_its_baselines_have_one_time_limit(call):
    _, _, ran = call({}, "--max-time", "10m")

    (limit,) = {options.max_time for _, options in ran}
    assert (len(ran), limit.text) == (3, "10m")


def test_a_baseline_that_fails_is_in_the_summary_and_the_others_run(call, tmp_path):
    code, shown, ran = call({"centralised": RunError("the baseline failed")})

    assert (code, [kind for kind, _ in ran]) == (4, ["federated", "centralised", "local"])
    assert "error: the baseline failed" in shown.err
    told = (tmp_path / "s.md").read_text()
    assert told.startswith("### fedsag: fruit finished, but the command failed\n\nError: the baseline failed\n")


def test_a_baseline_that_is_interrupted_ends_the_command_and_the_federated_run_is_shown(call, tmp_path):
    of_baseline = Interrupted(2, hint="--resume goes on")
    of_baseline.report = Report(job="fruit (centralised)")

    code, shown, ran = call({"centralised": of_baseline}, "--fail-over", "loss=0.1")

    assert (code, [kind for kind, _ in ran]) == (130, ["federated", "centralised"])
    assert f"{tmp_path}/report.json" in shown.out
    assert "error: interrupted\nhint: --resume goes on" in shown.err
    assert (tmp_path / "s.md").read_text().startswith("### fedsag: fruit finished, but the command was interrupted\n")
