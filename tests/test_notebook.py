"""Runs from Python: what `fedsag_cli.simulate` gives, in a script, in a thread and in the kernel of a notebook."""

import importlib.util
import inspect
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from xml.etree import ElementTree

import pytest
from runs import ADDS_ONE, FEDSAG, LIMIT_S, MARK, eventually, fedsag, job, marked

import fedsag_cli
from fedsag_cli.errors import JobError, RunError, UsageError
from fedsag_cli.notebook import Run
from fedsag_cli.report import BestReport, Report, RoundReport

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "examples" / "cifar10" / "sag" / "sag.ipynb"
SVGS = [*(NOTEBOOK.parent / "pictures").iterdir(), ROOT / "docs" / "pictures" / "run.svg"]


def round_of(number, accuracy, *own, workflow="sag"):
    return RoundReport(
        workflow=workflow,
        round_num=number,
        asked=["site-1", "site-2"],
        answered=[f"site-{at}" for at in range(1, len(own) + 1)],
        metrics={"accuracy": accuracy, "seconds": 2.0},
        metrics_by_site={f"site-{at}": {"accuracy": value} for at, value in enumerate(own, 1)},
        total_s=0.5,
    )


def report(**facts):
    given = {
        "job": "cats & dogs",
        "workspace": "/somewhere/<ws>",
        "sites": ["site-1", "site-2"],
        "seed": 7,
        "rounds": [round_of(0, 10.0, 5.0, 15.0), round_of(1, 30.0, 20.0, 40.0), round_of(2, None, 50.0)],
        "best": BestReport(round_num=1, metric="accuracy", score=30.0),
    }
    return Report(**given | facts)


def test_the_rounds_are_a_row_each_with_the_means_and_a_metric_never_takes_the_name_of_another_column(monkeypatch):
    pandas = pytest.importorskip("pandas")
    table = Run(report()).rounds
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    rows = Run(report()).rounds

    assert isinstance(table, pandas.DataFrame)
    assert table["round"].tolist() == [0, 1, 2]
    assert list(rows[0].items()) == [
        ("round", 0),
        ("accuracy", 10.0),
        ("seconds (metric)", 2.0),
        ("answered", 2),
        ("asked", 2),
        ("seconds", 0.5),
    ]
    assert math.isnan(rows[2]["accuracy"])
    assert (rows[2]["answered"], rows[2]["asked"]) == (1, 2)


def test_the_rounds_of_several_workflows_say_whose_they_are(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    rounds = [round_of(0, 1.0, workflow="first"), round_of(0, 2.0, workflow="second")]

    assert [row["workflow"] for row in Run(report(rounds=rounds)).rounds] == ["first", "second"]


def test_the_chart_has_each_value_at_its_place_and_a_gap_where_none_is():
    """Values from 5 to 50 stand on ticks from 0 to 50, between y = 240 and y = 40: 4 points for each unit."""
    svg = str(Run(report(final_metrics={"accuracy": 45.0})).plot())

    [*sites, mean] = re.findall(r'<path d="(M[^"]*L[^"]*)"', svg)
    assert mean == "M68.0 200.0L248.0 120.0M608.0 60.0"  # y = 240 - 4 * value; x = 68 + step * 540 / 3
    assert sites == ["M68.0 220.0L248.0 160.0L428.0 40.0", "M68.0 180.0L248.0 80.0"]
    assert re.findall(r"<title>([^<]*)</title></circle>", svg) == [
        "round 0: accuracy 10",
        "round 1: accuracy 30",
        "final model: accuracy 45",
    ]


def test_of_many_sites_the_chart_shows_the_range():
    names = [f"site-{number}" for number in range(200)]
    rounds = [
        RoundReport(round_num=at, metrics={"loss": 2.0}, metrics_by_site={name: {"loss": at + 1.0} for name in names})
        for at in range(2)
    ]
    svg = str(Run(report(sites=names, rounds=rounds, best=None)).plot("loss"))

    assert re.findall(r'<polygon points="(.*?)"', svg) == ["68.0,240.0 608.0,40.0 608.0,40.0 68.0,240.0"]
    assert len(svg) < 4000


@pytest.mark.parametrize("values", [(0.3, 0.1 + 0.2), (0.0, 0.0), (-5.0, -5.0), (1e300, -1e300), (7.0,)])
def test_values_that_are_alike_or_far_apart_have_a_place_in_the_chart(values):
    svg = str(Run(report(rounds=[round_of(at, value, value) for at, value in enumerate(values)])).plot("accuracy"))

    places = [float(y) for y in re.findall(r'<circle cx="[^"]*" cy="([^"]*)"', svg)]
    assert len(places) == len(values)
    assert all(40 <= y <= 240 for y in places)


def test_a_metric_that_the_run_has_not_is_told_with_the_nearest_one():
    with pytest.raises(UsageError, match=r"no metric 'acuracy' \(did you mean 'accuracy'\?\)"):
        Run(report()).plot("acuracy")
    with pytest.raises(UsageError, match="has no metrics"):
        Run(report(rounds=[])).plot()


def test_a_notebook_shows_the_run_with_its_curve_and_texts_from_outside_are_no_html():
    run = Run(report(digest="ab12"))

    assert repr(run) == "<Run cats & dogs: 3 rounds, 2 clients, seed 7, best accuracy 30 in round 1>"
    shown = run._repr_html_()
    assert "cats &amp; dogs" in shown
    assert "<code>/somewhere/&lt;ws&gt;</code>" in shown
    assert shown.endswith("</svg>")
    assert "<svg" not in Run(report(rounds=[]))._repr_html_()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"seed": "x"}, "seed must be a whole number, not 'x'"),
        ({"clients": 2.0}, "clients must be a whole number or a text or a list, not 2.0"),
        ({"clients": []}, "clients is empty"),
        ({"workspace": ""}, "workspace is empty"),
        ({"workspace": b"here"}, "workspace must be a text or a Path, not b'here'"),
        ({"workspace": "a\0b"}, "embedded null byte"),
        ({"clients": 0}, "-n 0: a run needs at least one client"),
        ({"at": 3}, "--at begins a fork of a run that there is"),
        ({"keep_checkpoints": 0}, "--keep-checkpoints 0: it must be a number from 1 on, or all"),
        ({"max_time": "soon"}, "--max-time 'soon' is not a time"),
    ],
)
def test_a_wrong_argument_is_named_before_anything_starts(tmp_path, given, said):
    with pytest.raises(UsageError, match=re.escape(said)):
        fedsag_cli.simulate(job(tmp_path / "j", ADDS_ONE), **{"workspace": tmp_path / "ws"} | given)

    assert not (tmp_path / "ws").exists()


def test_a_job_that_is_not_there_is_an_error_with_a_way_out(tmp_path):
    with pytest.raises(JobError, match=r"there is no job folder .*fedsag job create"):
        fedsag_cli.simulate(tmp_path / "nowhere", workspace=tmp_path / "ws")


@pytest.mark.parametrize(("given", "said"), [("", "job is empty"), (None, "job must be a text or a Path, not None")])
def test_a_job_that_is_no_name_of_a_folder_is_an_error(given, said):
    with pytest.raises(UsageError, match=said):
        fedsag_cli.simulate(given)


def test_the_page_lists_every_argument_and_the_flag_that_it_stands_for():
    [section] = re.findall(r"## Arguments.*?(?=## )", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE))
    help_text = fedsag("simulator", "--help", cwd=ROOT, env={"COLUMNS": "200"}).out

    assert list(rows) == list(inspect.signature(fedsag_cli.simulate).parameters)[1:]
    for flag in re.findall(r"`(-[\w-]+)`", " ".join(rows.values())):
        assert re.search(rf"(?<![\w-]){flag}[ ,]", help_text), flag


def test_who_imports_fedsag_or_its_client_api_does_not_pay_for_the_door():
    code = "import sys, fedsag_cli, fedsag_cli.client; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert {"fedsag_cli.notebook", "fedsag_cli.simulator", "fedsag_cli.cli", "typer"}.isdisjoint(loaded)
    assert {"simulate", "Run"} <= set(dir(fedsag_cli)), "the Tab key finds them"
    with pytest.raises(AttributeError, match="no attribute 'simulat'"):
        fedsag_cli.simulat  # noqa: B018


@pytest.mark.slow
def test_runs_follow_each_other_in_one_process_and_the_same_seed_gives_the_same_model(tmp_path, capsys):
    made = job(tmp_path / "j", ADDS_ONE)
    before = threading.active_count()

    values = {"num_rounds": 2, "components[0].args": {}}
    first = fedsag_cli.simulate(made, clients=2, threads=2, seed=1, workspace=tmp_path / "one", values=values)
    told = capsys.readouterr().out
    in_a_thread = []
    worker = threading.Thread(
        target=lambda: in_a_thread.append(
            fedsag_cli.simulate(made, clients="site-1,site-2", seed=1, workspace=tmp_path / "two", quiet=True)
        )
    )
    worker.start()
    worker.join()
    [second] = in_a_thread

    assert first.digest == second.digest
    assert first.digest == json.loads((tmp_path / "one" / "report.json").read_text())["digest"]
    assert first.workspace == tmp_path / "one"
    assert first.report.overrides == ["num_rounds=2", "components[0].args={}"]
    assert "round 1 finished" in told
    assert capsys.readouterr().out == ""
    assert threading.active_count() == before


@pytest.mark.slow
def test_a_run_that_fails_raises_what_the_command_says_with_the_report(tmp_path):
    made = job(tmp_path / "j", "raise ValueError('no data')")

    with pytest.raises(RunError, match=r"no client can still answer.*ValueError: no data") as caught:
        fedsag_cli.simulate(made, clients=2, threads=2, workspace=tmp_path / "ws", quiet=True)

    assert set(caught.value.report.failures) == {"site-1", "site-2"}
    frames = [entry.path.name for entry in caught.traceback]
    assert frames == [Path(__file__).name, "__init__.py"], "only the call and the door"


HANGS = """
    import os
    import time

    import fedsag_cli.client as flare

    flare.init()
    while flare.is_running():
        model = flare.receive()
        while model.current_round == 1 and os.path.exists({path!r}):
            time.sleep(0.02)
        flare.send(flare.FLModel(params={{k: v + 1 for k, v in model.params.items()}}))
"""


@pytest.fixture
def hanging(tmp_path):
    """A job whose clients hang in round 1 as long as a file is there: the job, and the file."""
    path = tmp_path / "hang"
    path.touch()
    return job(tmp_path / "j", HANGS.format(path=str(path)), num_rounds=3), path


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """A notebook's kernel with a client that talks to it, and the mark of all processes under it."""
    manager_of = pytest.importorskip("jupyter_client.manager").KernelManager
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("HOME", str(tmp_path))  # so that no kernel of the user's is taken
    monkeypatch.setenv(MARK, mark := uuid.uuid4().hex)
    manager = manager_of(kernel_name="python3")
    manager.start_kernel(cwd=str(tmp_path))
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=LIMIT_S)
        yield manager, client, mark
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.mark.slow
def test_interrupting_the_kernel_ends_the_run_with_all_its_processes_and_it_can_go_on(kernel, hanging, tmp_path):
    manager, client, mark = kernel
    made, path = hanging
    before = set(marked(mark))
    given = f"{str(made)!r}, clients=2, threads=2, workspace={str(tmp_path / 'ws')!r}, seed=1"

    def interrupts(message):
        if "round 1 started" in message["content"].get("text", ""):
            manager.interrupt_kernel()

    def ran(code, output_hook=lambda message: None):
        return client.execute_interactive(code, output_hook=output_hook, timeout=LIMIT_S)["content"]

    stopped = ran(f"import fedsag_cli; fedsag_cli.simulate({given})", interrupts)
    left = set(marked(mark)) - before
    path.unlink()
    resumed = ran(f"assert len(fedsag_cli.simulate({given}, resume=True, quiet=True).rounds) == 3")

    assert stopped["ename"] == "KeyboardInterrupt"
    assert re.search("1 round done. Continue .* --resume", stopped["evalue"])
    assert left == set()
    assert resumed["status"] == "ok", resumed


@pytest.mark.slow
def test_a_script_that_is_told_to_end_ends_its_run_and_then_itself_by_that_signal(hanging, tmp_path):
    made, _ = hanging
    mark = uuid.uuid4().hex
    code = f"""
import fedsag_cli
try:
    fedsag_cli.simulate({str(made)!r}, clients=2, threads=2, workspace={str(tmp_path / "ws")!r})
except fedsag_cli.errors.FedsagError:
    print("goes on")
"""
    env = os.environ | {"HOME": str(tmp_path), MARK: mark}
    with subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True) as script:
        next(line for line in script.stdout if "round 1 started" in line)
        script.terminate()
        rest = script.stdout.read()

    assert script.returncode == -signal.SIGTERM
    assert "goes on" not in rest
    eventually(lambda: not marked(mark))


@pytest.fixture(scope="module")
def notebook():
    return json.loads(NOTEBOOK.read_text())


def test_the_notebook_is_stored_without_outputs_and_has_the_pictures_and_pages_it_shows(notebook):
    texts = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    targets = re.findall(r"\]\((?!https://)([^)]+)\)", "\n".join(texts))

    assert all(
        not cell["outputs"] and cell["execution_count"] is None for cell in notebook["cells"] if "outputs" in cell
    )
    assert sum(target.endswith(".svg") for target in targets) == 4
    for target in targets:
        assert (NOTEBOOK.parent / target).is_file(), target


def test_the_pictures_are_what_the_script_draws(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    from drawing.tutorial import PICTURES

    drawn = {f"{name}.svg": str(draw()) for name, draw in PICTURES.items()}

    assert drawn == {path.name: path.read_text() for path in (NOTEBOOK.parent / "pictures").iterdir()}


@pytest.mark.parametrize("path", SVGS, ids=lambda path: path.stem)
def test_a_picture_is_small_and_needs_nothing_from_elsewhere(path):
    svg = path.read_text()

    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    assert len(svg) < 60_000
    assert re.findall(r"https?://[^\"]*", svg) == ["http://www.w3.org/2000/svg"]


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(FEDSAG).parent), os.environ["PATH"]]))
    monkeypatch.delenv("FEDSAG_HOME", raising=False)
    say = {
        "/tmp/fedsag": str(tmp_path / "fedsag"),
        "python ../data/download.py": "true",  # which needs a network
        "--batch_size 6": "--batch_size 6 --limit 60",
        "num_rounds=5": "num_rounds=2",
    }
    read = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in read.cells if cell.cell_type == "code"]
    for cell in code:
        for told, instead in say.items():
            cell.source = cell.source.replace(told, instead)
        if cell.source.lstrip().startswith("!") or "\n! " in cell.source:
            cell.source += "\nassert _exit_code == 0"

    nbclient.NotebookClient(read, timeout=LIMIT_S, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()

    outputs = {cell.source.splitlines()[0]: cell.outputs for cell in code}
    printed = "".join(output.get("text", "") for told in outputs.values() for output in told)
    assert [output.data["text/html"].startswith("<svg") for output in outputs["run.plot()"]] == [True]
    assert "round 1 finished" in printed
    assert "rounds     2 of 2 proven" in printed
    assert "no CIFAR-10 in" in printed
