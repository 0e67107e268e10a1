"""A new workflow that NVFLARE has too is its own file and one line in catalog.KNOWN: everything else reads it."""

import json

import pytest

from fedsag_cli import catalog
from fedsag_cli.errors import JobError
from fedsag_cli.interop import reading
from fedsag_cli.interop.export import export
from fedsag_cli.job import ConfigFile, Job
from fedsag_cli.job.templates import variables
from fedsag_cli.job.templates.create import create
from fedsag_cli.simulator.options import Options
from fedsag_cli.simulator.planning import make_plan
from fedsag_cli.workspace import Workspace

WORKFLOW = '''
from typing import Annotated

from fedsag_cli.arguments import checked
from fedsag_cli.facts import Facts, Nvflare
from fedsag_cli.workflows.rounds import NumRounds


class Relay:
    """The model goes from one client to the next."""

    facts = Facts(
        needs_torch=True,
        asks_for=("train_task_name",),
        nvflare=Nvflare(
            path="nvflare.app_common.workflows.cyclic_ctl.CyclicController",
            renamed={"task_name": "train_task_name"},
            ignored=("task_check_period",),
            expected={"allow_early_termination": (False,)},
            added={"shareable_generator_id": "shareable_generator"},
            left_out={"seed": "draws no order"},
            whole_numbers=("timeout",),
        ),
    )

    @checked
    def __init__(
        self,
        persistor: Annotated[object, "loads and writes the model"],
        num_rounds: NumRounds = 3,
        train_task_name: Annotated[str, "name of the task to train"] = "relay",
        timeout: Annotated[float, "seconds that a client has"] = 0,
        seed: Annotated[int | None, "seed of the order"] = None,
    ) -> None: ...
'''
SERVER = """
workflows = [{ id = "w", path = "Relay", args { persistor_id = "p", timeout = 1.5, seed = 7 } }]
components = [{ id = "p", path = "NPModelPersistor", args {} }]
"""
CLIENT = """
executors = [{ tasks = ["%s"], executor {
  path = "ClientAPIExecutor", args { execution_mode = "external_process", command = "python3 custom/train.py" }
} }]
"""


@pytest.fixture(params=["in the catalog", "in custom/"])
def known(request, tmp_path, monkeypatch):
    """The name of the workflow in a job's config: that of fedsag's own, or of a user's."""
    if request.param == "in custom/":
        return "relay_for_a_test.Relay"
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "relay_for_a_test.py").write_text(WORKFLOW)
    monkeypatch.syspath_prepend(str(tmp_path / "installed"))
    monkeypatch.setattr(catalog, "KNOWN", {**catalog.KNOWN, "Relay": "relay_for_a_test.Relay"})
    return "Relay"


@pytest.fixture
def made(tmp_path, known):
    def make(*words, task="relay"):
        template = tmp_path / "template"
        (template / "custom").mkdir(parents=True)
        (template / "config_fed_server.conf").write_text(SERVER.replace('"Relay"', f'"{known}"'))
        (template / "config_fed_client.conf").write_text(CLIENT % task)
        (template / "custom" / "train.py").write_text("")
        if known != "Relay":
            (template / "custom" / "relay_for_a_test.py").write_text(WORKFLOW)
        overrides = [("config_fed_server.conf", words)] if words else []
        return create(tmp_path / "job", str(template), overrides=overrides, translate=reading.translate)

    return make


def test_create_refuses_what_it_would_refuse(made, tmp_path):
    with pytest.raises(JobError, match=r"args\.num_rounds must be a number from 1 on, not 0"):
        made("num_rounds=0")

    assert not (tmp_path / "job").exists()


def test_show_variables_lists_its_arguments(made):
    rows = {row.key: row for row in variables.of_job(made().folder)}

    row = rows["num_rounds"]
    assert (row.value, row.kind, row.default, row.meaning) == (3, "int", 3, "number of rounds")
    assert (row.component, rows["seed"].kind, rows["train_task_name"].value) == ("Relay", "int", "relay")


def test_planning_checks_that_a_client_takes_its_task_and_imports_torch_early(made, tmp_path):
    def plan(folder):
        return make_plan(Job.load(folder), Workspace(tmp_path / "w"), Options(num_clients=2)).plan

    folder = made().folder
    assert "torch" in plan(folder).preload
    (folder / "app/config/config_fed_client.conf").write_text(CLIENT % "train")
    with pytest.raises(JobError, match="no client takes the task 'relay' of workflow 'w'"):
        plan(folder)


def test_nvflares_name_of_it_is_read(known):
    if known != "Relay":
        pytest.skip("a user's own class stands for none of NVFLARE's")
    theirs = {"task_name": "relay", "task_check_period": 1, "allow_early_termination": True, "timeout": 2}
    flow = {"id": "w", "path": "nvflare.app_common.workflows.cyclic_ctl.CyclicController", "args": theirs}

    done = reading.translate(ConfigFile(stem="config_fed_server", name="f", values={"workflows": [flow]}), [])

    assert done.values["workflows"] == [
        {"id": "w", "path": "Relay", "args": {"train_task_name": "relay", "timeout": 2}}
    ]
    assert done.notes == ["CyclicController: allow_early_termination = True has no effect in fedsag"]


def test_it_is_exported_under_nvflares_name(made, tmp_path):
    folder = made("train_task_name=relay").folder

    done = export(Job.load(folder, reading.translate), tmp_path / "out")

    written = json.loads((tmp_path / "out/app/config/config_fed_server.json").read_text())
    (flow,) = written["workflows"]
    assert flow["path"] == "nvflare.app_common.workflows.cyclic_ctl.CyclicController"
    assert flow["args"] == {
        "persistor_id": "p",
        "timeout": 2,
        "task_name": "relay",
        "shareable_generator_id": "shareable_generator",
    }
    assert done.notes == ["seed is left out: NVFLARE's CyclicController draws no order"]
