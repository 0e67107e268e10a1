"""Workflows that NVFLARE's clients run become workflows of the server, with the arguments of the clients' configs."""

import json

import pytest

from fedsag_cli import catalog
from fedsag_cli.errors import JobError
from fedsag_cli.interop import reading
from fedsag_cli.job import ConfigFile, Job

RING = '''
from fedsag_cli.facts import Facts, Nvflare


class Ring:
    """The model goes round."""

    facts = Facts(
        asks_for=("train_task_name",),
        nvflare=Nvflare(
            path="nvflare.app_common.ccwf.cyclic_server_ctl.CyclicServerController",
            renamed={"learn_task_name": "train_task_name", "cyclic_order": "order"},
            defaults={"persistor_id": "persistor"},
        ),
    )

    def __init__(self, persistor, num_rounds: int = 3, train_task_name: str = "train", order: str = "fixed") -> None:
        self._persistor = persistor
'''
FLOW = {
    "id": "ctl",
    "path": "nvflare.app_common.ccwf.CyclicServerController",
    "args": {"num_rounds": 4, "max_status_report_interval": 300, "starting_client": ""},
}
SCRIPT = {
    "tasks": ["train"],
    "executor": {"path": "ClientAPIExecutor", "args": {"execution_mode": "in_process", "task_script_path": "train.py"}},
}
CONTROLLER = {
    "tasks": ["cyclic_*"],
    "executor": {
        "path": "nvflare.app_common.ccwf.CyclicClientController",
        "args": {"learn_task_name": "fit", "persistor_id": "keeper", "shareable_generator_id": "generator"},
    },
}
KEEPER = {"id": "keeper", "path": "nvflare.app_common.np.np_model_persistor.NPModelPersistor"}
GENERATOR = {
    "id": "generator",
    "path": "nvflare.app_common.ccwf.comps.simple_model_shareable_generator.SimpleModelShareableGenerator",
}
PIPE = {"id": "pipe", "path": "nvflare.fuel.utils.pipe.file_pipe.FilePipe"}
CLIENT = {"executors": [SCRIPT, CONTROLLER], "components": [KEEPER, GENERATOR, PIPE]}


@pytest.fixture(autouse=True)
def _ring(tmp_path, monkeypatch):
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "ring_for_a_test.py").write_text(RING)
    monkeypatch.syspath_prepend(str(tmp_path / "installed"))
    monkeypatch.setattr(catalog, "KNOWN", {**catalog.KNOWN, "Ring": "ring_for_a_test.Ring"})


def file(stem, values, name=None):
    return ConfigFile(stem=f"config_fed_{stem}", name=name or stem, values=values)


def server_of(workflows, *clients, components=()):
    """The workflows, the components and the notes."""
    given = file("server", {"workflows": workflows, "components": list(components)})
    done = reading.translate(given, [file("client", each, f"client {n}") for n, each in enumerate(clients, 1)])
    return done.values["workflows"], done.values["components"], done.notes


def test_the_clients_half_gives_the_workflow_its_arguments_and_its_components():
    (flow,), components, notes = server_of([FLOW], CLIENT)

    args = {"num_rounds": 4, "train_task_name": "fit", "persistor_id": "keeper"}
    assert flow == {"id": "ctl", "path": "Ring", "args": args}
    assert components == [{"id": "keeper", "path": "NPModelPersistor", "args": {}}]
    assert notes == [
        "CyclicServerController: the server runs it, with the arguments that clients have: each model passes the server"
    ]


def test_a_client_keeps_its_script_alone_and_tells_only_of_what_the_server_does_not_get():
    done = reading.translate(file("client", CLIENT), [])

    assert (done.values["executors"], done.values["components"]) == ([SCRIPT], [])
    assert done.notes == ["FilePipe is left out: fedsag sends its messages itself"]


def test_what_a_component_of_the_clients_needs_goes_along_and_so_does_the_model_selector():
    keeper = {"id": "keeper", "path": "my.Keeper", "args": {"inner_id": "inner"}}
    selector = {"id": "s", "path": "nvflare.app_common.widgets.intime_model_selector.IntimeModelSelector"}
    client = {
        **CLIENT,
        "components": [{"id": "inner", "path": "my.Inner"}, selector, keeper, {"id": "x", "path": "my.X"}],
    }

    _, components, _ = server_of([FLOW], client)

    assert [part["id"] for part in components] == ["inner", "s", "keeper"]


def test_a_component_that_the_server_has_under_this_id_stays():
    own = {"id": "keeper", "path": "my.Keeper"}

    _, components, _ = server_of([FLOW], CLIENT, components=[own])

    assert components == [own]


def test_two_workflows_of_one_class_are_told_apart_by_their_prefix():
    second = {
        **CONTROLLER,
        "executor": {**CONTROLLER["executor"], "args": {"task_name_prefix": "b", "learn_task_name": "two"}},
    }
    flows = [FLOW, {**FLOW, "id": "second", "args": {"num_rounds": 1, "task_name_prefix": "b"}}]

    done, _, _ = server_of(flows, {**CLIENT, "executors": [second, CONTROLLER]})

    assert [flow["args"]["train_task_name"] for flow in done] == ["fit", "two"]


def test_a_workflow_without_its_other_half_is_an_error_that_names_it():
    with pytest.raises(JobError, match="client 1: no executor is a CyclicClientController, which the workflow Cyclic"):
        server_of([FLOW], {"executors": [SCRIPT]})


def test_clients_with_other_halves_are_told():
    other = {**CLIENT, "components": [{**KEEPER, "args": {"model": [1.0]}}, GENERATOR]}

    _, components, notes = server_of([FLOW], CLIENT, CLIENT, other)

    assert components[0]["args"] == {}
    assert notes[0] == (
        "client 3: its controllers or their components are others than in client 1: those there are used"
    )


def test_workflows_that_a_client_runs_one_after_the_other_are_the_servers():
    runs = {
        "tasks": ["wf_*"],
        "executor": {
            "path": "nvflare.app_common.ccwf.client_controller_executor.ClientControllerExecutor",
            "args": {"controller_id_list": ["sag", "own"], "task_name_prefix": "wf", "persistor_id": "keeper"},
        },
    }
    sag = {
        "id": "sag",
        "path": "nvflare.app_common.workflows.scatter_and_gather.ScatterAndGather",
        "args": {
            "min_clients": 2,
            "persistor_id": "keeper",
            "aggregator_id": "mean",
            "shareable_generator_id": "generator",
        },
    }
    mean = {"id": "mean", "path": "FedAvg"}
    own = {"id": "own", "path": "my.Flow"}
    client = {"executors": [SCRIPT, runs], "components": [sag, own, KEEPER, GENERATOR, mean]}
    watching = {
        "id": "svr",
        "path": "nvflare.app_common.ccwf.server_ctl.ServerSideController",
        "args": {"start_task_timeout": 600},
    }

    flows, components, _ = server_of([watching], client)
    on_client = reading.translate(file("client", client), [])

    assert flows == [
        {
            "id": "sag",
            "path": "ScatterAndGather",
            "args": {"min_clients": 2, "persistor_id": "keeper", "aggregator_id": "mean"},
        },
        own,
    ]
    assert [part["id"] for part in components] == ["keeper", "mean"]
    assert on_client.values["executors"] == [SCRIPT]
    assert on_client.notes == []


def test_a_job_of_several_apps_is_read_whole_and_variables_of_the_clients_file_count(tmp_path):
    server = {"workflows": [FLOW]}
    start = {"first": [[5.0]], "executors": [SCRIPT, CONTROLLER],
             "components": [{**KEEPER, "args": {"model": "{first}"}}, GENERATOR]}  # fmt: skip
    for app, stem, values in (("app_server", "server", server), ("app_client", "client", start)):
        (tmp_path / "job" / app / "config").mkdir(parents=True)
        (tmp_path / "job" / app / "config" / f"config_fed_{stem}.json").write_text(json.dumps(values))
    meta = {"deploy_map": {"app_server": ["server"], "app_client": ["site-1", "site-2"]}}
    (tmp_path / "job" / "meta.json").write_text(json.dumps(meta))

    job = Job.load(tmp_path / "job", reading.translate)

    config = job.app_for("server").server({"SITE_NAME": "server"})
    assert [(flow.path, flow.args["num_rounds"]) for flow in config.workflows] == [("Ring", 4)]
    assert [(part.id, part.args) for part in config.components] == [("keeper", {"model": [[5.0]]})]
    assert job.app_for("site-1").client({"SITE_NAME": "site-1"}).executors[0].script == "custom/train.py"
