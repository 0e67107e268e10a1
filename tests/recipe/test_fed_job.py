"""FedJob: parts by NVFLARE's names, for the server and for clients."""

import json
import sys
from pathlib import Path

import pytest

from fedsag_cli.errors import RunError, UsageError
from fedsag_cli.recipe import FedJob, ScriptRunner
from fedsag_cli.recipe.parts import part_class
from fedsag_cli.recipe.settings import FilterType

FEDAVG = part_class("nvflare.app_common.workflows.fedavg.FedAvg")
PERSISTOR = part_class("nvflare.app_common.np.np_model_persistor.NPModelPersistor")
PRIVACY = part_class("nvflare.app_common.filters.svt_privacy.SVTPrivacy")


@pytest.fixture(autouse=True)
def script(tmp_path, monkeypatch):
    (tmp_path / "src").mkdir()
    (tmp_path / "src/train.py").write_text("from src.deep import more\nimport beside\n")
    (tmp_path / "src/deep.py").write_text("import numpy\n")
    (tmp_path / "src/beside.py").write_text("")
    (tmp_path / "data.txt").write_text("1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def read(path):
    return json.loads(Path("jobs/mine", path).read_text())


def test_a_part_becomes_its_class_path_and_its_arguments_where_it_belongs():
    job = FedJob("mine", min_clients=2)
    assert job.to_server(PERSISTOR(model=[1, 2]), id="persistor") == "persistor"
    job.to_server(FEDAVG(num_clients=2, num_rounds=3, persistor_id="persistor"))
    job.to_clients(ScriptRunner("src/train.py", "--lr 1", framework="numpy"), tasks=["train"])
    job.to_clients(PRIVACY(fraction=0.1), filter_type=FilterType.TASK_RESULT, tasks=["train"])
    job.export_job("jobs")

    server, client = read("app/config/config_fed_server.json"), read("app/config/config_fed_client.json")
    assert server["components"] == [{"id": "persistor", "path": PERSISTOR.nvflare_path, "args": {"model": [1, 2]}}]
    assert [flow["path"] for flow in server["workflows"]] == [FEDAVG.nvflare_path]
    assert client["executors"][0]["tasks"] == ["train"]
    assert client["task_result_filters"] == [
        {"tasks": ["train"], "filters": [{"path": PRIVACY.nvflare_path, "args": {"fraction": 0.1}}]}
    ]
    assert read("meta.json")["deploy_map"] == {"app": ["@ALL"]}


def test_a_script_goes_along_with_modules_beside_it_and_in_the_current_folder():
    job = FedJob("mine")
    job.to_clients(ScriptRunner("src/train.py"))
    job.export_job("jobs")

    custom = Path("jobs/mine/app/custom")
    found = sorted(str(path.relative_to(custom)) for path in custom.rglob("*.py"))
    assert found == ["beside.py", "src/deep.py", "src/train.py"]


def test_sites_with_parts_of_their_own_have_apps_of_their_own():
    job = FedJob("mine")
    job.to_server(FEDAVG(num_clients=2, num_rounds=1))
    for site in ("a", "b"):
        job.to(ScriptRunner("src/train.py", f"--site {site}"), site)
    job.to("data.txt", "a")
    job.export_job("jobs")

    assert read("meta.json")["deploy_map"] == {"app_server": ["server"], "app_a": ["a"], "app_b": ["b"]}
    assert Path("jobs/mine/app_a/custom/data.txt").is_file()
    assert not Path("jobs/mine/app_b/custom/data.txt").exists()


def test_a_part_that_is_named_by_its_id_goes_where_it_is_needed():
    job = FedJob("mine")
    name = job.as_id(PERSISTOR(model=[1]))
    job.to_server(FEDAVG(num_clients=1, persistor_id=name))
    job.export_job("jobs")

    assert [part["id"] for part in read("app/config/config_fed_server.json")["components"]] == [name]


def test_a_class_of_the_users_own_has_the_arguments_that_it_keeps(tmp_path):
    (tmp_path / "own.py").write_text(
        "class Own:\n    def __init__(self, a, b=2, c=3, *, d=None):\n        self.a, self._b, self.c = a, b, c\n"
    )
    import own

    job = FedJob("mine")
    job.to_server(own.Own(1, 5), id="own")
    job.export_job("jobs")

    (part,) = read("app/config/config_fed_server.json")["components"]
    assert part == {"id": "own", "path": "own.Own", "args": {"a": 1, "b": 5}}
    assert Path("jobs/mine/app/custom/own.py").is_file()
    del sys.modules["own"]


def test_an_export_replaces_the_same_job_and_nothing_else(tmp_path):
    job = FedJob("mine")
    job.export_job("jobs")
    job.export_job("jobs")
    (tmp_path / "other/mine").mkdir(parents=True)

    with pytest.raises(UsageError, match="is there already, and is no job of that name"):
        job.export_job("other")
    assert [path.name for path in Path("other").iterdir()] == ["mine"]


def test_a_place_where_no_folder_can_be_is_an_error_without_a_traceback():
    with pytest.raises(RunError, match=r"data\.txt"):
        FedJob("mine").export_job("data.txt")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda job: job.to("no.txt", "server"), "no.txt: there is no such file"),
        (lambda job: job.to_server(None), "there is nothing to add"),
        (lambda job: job.to_server(ScriptRunner("src/train.py")), "is for clients"),
        (lambda job: job.to_clients(PRIVACY(), filter_type="x"), "filter_type is 'x'"),
        (lambda job: FEDAVG(2), "FedAvg: arguments must be given by name"),
        (lambda job: ScriptRunner("src/train.py", framework="tensorflow"), "fedsag has no framework 'tensorflow'"),
        (lambda job: job.simulator_run("w"), "there are no clients"),
        (lambda job: job.simulator_run("w", n_clients="2"), "FedJob.simulator_run: n_clients must be a whole number"),
        (lambda job: ScriptRunner("src"), "src is a folder, not a script"),
        (lambda job: job.to_server(5), "5 is no part"),
        (lambda job: FedJob(nam="x"), "fedsag has no argument 'nam' of FedJob .did you mean 'name'"),
        (lambda job: FedJob("x", min_clients=True), "FedJob: min_clients must be a whole number, not True"),
        (lambda job: ScriptRunner(scrip="x.py"), "fedsag has no argument 'scrip' of ScriptRunner"),
    ],
)
def test_what_cannot_be_in_a_job_is_an_error(wrong, said):
    with pytest.raises(UsageError, match=said):
        wrong(FedJob("mine"))
