"""Jobs written for NVFLARE: what stands in their files, and that they still mean the same."""

import json
import sys
import types

import numpy as np
import pytest
from runs import ADDS_ONE, app, deploy, fedsag, job, run, torch_job

from fedsag_cli.errors import JobError
from fedsag_cli.interop import reading, writing
from fedsag_cli.interop.export import export
from fedsag_cli.job import Job

SAG = "nvflare.app_common.workflows.scatter_and_gather.ScatterAndGather"
IN_TIME = "nvflare.app_common.aggregators.intime_accumulate_model_aggregator.InTimeAccumulateWeightedAggregator"


def written(folder, out, **settings):
    """The job in `folder`, exported to `out`."""
    return export(Job.load(folder, reading.translate), out, **settings)


def configs(out, name="app"):
    read = [
        json.loads((out / name / "config" / f"config_fed_{side}.json").read_text()) for side in ("server", "client")
    ]
    server, client = read
    return server, {part["id"]: part for part in server["components"]}, client


def test_a_job_is_written_in_their_words(tmp_path):
    folder = job(tmp_path / "mine", num_rounds=3, wait_time_after_min_received=2.5, validate_task_name="validate")

    done = written(folder, tmp_path / "out")

    server, parts, client = configs(tmp_path / "out")
    assert done.notes == []
    assert server["workflows"] == [
        {
            "id": "scatter_and_gather",
            "path": SAG,
            "args": {
                "min_clients": 2,
                "num_rounds": 3,
                "wait_time_after_min_received": 3,
                "aggregator_id": "aggregator",
                "persistor_id": "persistor",
                "shareable_generator_id": "shareable_generator",
            },
        }
    ]
    assert parts["aggregator"] == {"id": "aggregator", "path": IN_TIME, "args": {"expected_data_kind": "WEIGHTS"}}
    assert parts["persistor"]["path"] == "nvflare.app_common.np.np_model_persistor.NPModelPersistor"
    assert parts["model_selector"]["args"] == {"key_metric": "mean"}
    assert parts["shareable_generator"]["path"].endswith(".FullModelShareableGenerator")
    [entry] = client["executors"]
    assert entry["tasks"] == ["train"]
    assert entry["executor"]["path"] == "nvflare.app_common.executors.client_api_executor.ClientAPIExecutor"
    assert entry["executor"]["args"] == {
        "execution_mode": "external_process",
        "command": "python3 -u custom/train.py ",
        "params_exchange_format": "numpy",
        "server_expected_format": "numpy",
    }
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    assert meta == {
        "resource_spec": {}, "mandatory_clients": [], "name": "mine", "min_clients": 1, "deploy_map": {"app": ["@ALL"]},
    }  # fmt: skip


def test_what_clients_send_is_what_their_aggregator_expects(tmp_path):
    folder = torch_job(tmp_path / "mine", ADDS_ONE, executor={"params_transfer_type": "DIFF"})

    written(folder, tmp_path / "out")

    _, parts, client = configs(tmp_path / "out")
    assert parts["aggregator"]["args"]["expected_data_kind"] == "WEIGHT_DIFF"
    assert client["executors"][0]["executor"]["args"]["params_exchange_format"] == "pytorch"
    assert parts["persistor"]["args"] == {"model": {"path": "net.Net"}}


def test_variables_stay_variables(tmp_path):
    folder = job(tmp_path / "mine", command="python3 custom/{app_script}")
    file = folder / "app/config/config_fed_client.json"
    file.write_text(json.dumps({"app_script": "train.py", **json.loads(file.read_text())}))

    written(folder, tmp_path / "out")

    _, _, client = configs(tmp_path / "out")
    assert client["app_script"] == "train.py"
    assert client["executors"][0]["executor"]["args"]["command"] == "python3 custom/{app_script}"


def test_clients_that_send_different_kinds_are_an_error(tmp_path):
    app(tmp_path / "mine" / "one", ADDS_ONE, executor={"params_transfer_type": "DIFF"})
    app(tmp_path / "mine" / "two", ADDS_ONE)
    folder = deploy(tmp_path / "mine", one=["server", "site-1"], two=["site-2"])

    with pytest.raises(JobError, match="some clients send DIFF, others FULL"):
        written(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_each_app_of_several_is_written(tmp_path):
    app(tmp_path / "mine" / "one", ADDS_ONE)
    app(tmp_path / "mine" / "two", ADDS_ONE, args="--lr 2")
    folder = deploy(tmp_path / "mine", one=["server", "site-1"], two=["site-2"])

    written(folder, tmp_path / "out")

    assert "--lr 2" in configs(tmp_path / "out", "two")[2]["executors"][0]["executor"]["args"]["command"]
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    assert meta["deploy_map"] == {"one": ["server", "site-1"], "two": ["site-2"]}


def test_in_its_own_process_a_script_has_only_what_goes_with_that(tmp_path):
    folder = job(
        tmp_path / "mine",
        executor={
            "execution_mode": "in_process", "command": None, "task_script_path": "train.py", "launch_once": False,
            "launch_timeout": 5,
        },
        components={"tb": {"path": "TBAnalyticsReceiver"}},
    )  # fmt: skip

    done = written(folder, tmp_path / "out")

    _, parts, client = configs(tmp_path / "out")
    assert client["executors"][0]["executor"]["args"] == {
        "execution_mode": "in_process",
        "task_script_path": "train.py",
        "params_exchange_format": "numpy",
        "server_expected_format": "numpy",
    }
    assert parts["tb"]["args"] == {"events": ["fed.analytix_log_stats"]}
    assert [part["path"].rpartition(".")[2] for part in client["components"]] == ["ConvertToFedEvent"]
    assert done.notes == [
        "TBAnalyticsReceiver: NVFLARE does not run the job without the package tensorboard",
        "launch_once = false has no effect in NVFLARE if execution_mode is in_process",
    ]


def test_workers_stay_here(tmp_path):
    done = written(job(tmp_path / "mine", executor={"serves_any_client": True}), tmp_path / "out")

    assert "serves_any_client" not in configs(tmp_path / "out")[2]["executors"][0]["executor"]["args"]
    assert done.notes == ["serves_any_client is left out: in NVFLARE each client has a process of its own"]


def test_patterns_that_exclude_become_one(tmp_path):
    patterns = ["^a", "", "b$"]  # an empty one excludes nothing here, and everything in an alternative
    aggregator = {"path": "FedAvg", "args": {"exclude_vars": patterns, "aggregation_weights": {"site-1": 2.0}}}
    filters = [{"tasks": ["train"], "filters": [{"path": "ExcludeVars", "args": {"exclude_vars": "c"}}]}]

    written(
        job(tmp_path / "mine", components={"aggregator": aggregator}, server={"task_data_filters": filters}),
        tmp_path / "out",
    )

    server, parts, _ = configs(tmp_path / "out")
    assert parts["aggregator"]["args"] == {
        "exclude_vars": "(?:^a)|(?:b$)", "aggregation_weights": {"site-1": 2.0}, "expected_data_kind": "WEIGHTS",
    }  # fmt: skip
    [link] = server["task_data_filters"][0]["filters"]
    assert link == {"path": "nvflare.app_common.filters.exclude_vars.ExcludeVars", "args": {"exclude_vars": "c"}}


def test_what_a_variable_stands_for_decides_as_if_it_stood_there(tmp_path):
    folder = job(
        tmp_path / "mine",
        server={"wait": 0.5, "averages": "FedAvg", "left_out": ["a", "b"], "by_steps": True},
        wait_time_after_min_received="{wait}",
        num_rounds=2,
        components={
            "aggregator": {
                "path": "{averages}",
                "args": {"exclude_vars": "{left_out}", "weigh_by_local_iter": "{by_steps}"},
            }
        },
    )

    written(folder, tmp_path / "out")

    server, parts, _ = configs(tmp_path / "out")
    assert server["workflows"][0]["args"]["wait_time_after_min_received"] == 1
    assert parts["aggregator"]["path"] == IN_TIME
    assert parts["aggregator"]["args"]["exclude_vars"] == "(?:a)|(?:b)"


@pytest.mark.parametrize(
    ("source", "there"),
    [("custom/first.npy", "first.npy"), ("first.npy", "first.npy"), ("/models/first.npy", "/models/first.npy")],
)
@pytest.mark.parametrize("persistor", ["NPModelPersistor", "PTFileModelPersistor"])
def test_a_checkpoint_is_named_as_seen_from_the_scripts(tmp_path, persistor, source, there):
    part = {"path": persistor, "args": {"source_ckpt_file_full_name": source}}

    written(job(tmp_path / "mine", components={"persistor": part}), tmp_path / "out")

    assert configs(tmp_path / "out")[1]["persistor"]["args"] == {"source_ckpt_file_full_name": there}


def test_a_task_that_nobody_is_given_there_is_told(tmp_path):
    done = written(job(tmp_path / "mine", tasks=["train", "validate"]), tmp_path / "out")

    assert done.notes == [
        "task 'validate': NVFLARE's ScatterAndGather does not ask for it: the final model is not validated"
    ]


def test_rounds_with_some_clients_and_an_early_end_are_not_there_and_that_is_told(tmp_path):
    made = job(tmp_path / "job", num_clients=2, stop_cond="accuracy > 80", patience=3)

    done = written(made, tmp_path / "out")

    server = configs(tmp_path / "out")[0]
    assert not {"num_clients", "stop_cond", "patience"} & set(server["workflows"][0]["args"])
    assert done.notes == [
        "num_clients is left out: NVFLARE's ScatterAndGather asks all clients",
        "stop_cond is left out: NVFLARE's ScatterAndGather runs all rounds",
    ]


@pytest.mark.parametrize(("transfer", "told"), [("FULL", True), ("DIFF", False)])
@pytest.mark.parametrize("where", ["aggregator", "filter"])
def test_keys_that_go_missing_there_are_told(tmp_path, where, transfer, told):
    folder = torch_job(
        tmp_path / "mine",
        ADDS_ONE,
        executor={"params_transfer_type": transfer},
        **{"components": {"aggregator": {"path": "FedAvg", "args": {"exclude_vars": "bias"}}}}
        if where == "aggregator"
        else {
            "server": {
                "task_result_filters": [
                    {"tasks": ["train"], "filters": [{"path": "ExcludeVars", "args": {"exclude_vars": "bias"}}]}
                ]
            }
        },
    )

    done = written(folder, tmp_path / "out")

    assert bool(done.notes) is told
    assert all("from the second round on, clients do not get them" in note for note in done.notes)


@pytest.mark.parametrize(
    ("components", "message"),
    [
        ({"aggregator": {"path": "mine.Mean"}}, "'mine.Mean' is a component of fedsag"),
        ({"aggregator": {"path": "FedAvg", "args": {"weigh_by_local_iter": False}}}, "divides by the steps"),
        ({"persistor": {"path": "NPModelPersistor", "args": {"model": {"a": [1], "b": [2]}}}}, "has only one array"),
    ],
)
def test_what_they_have_not_is_an_error_and_nothing_is_written(tmp_path, components, message):
    mean = "class Mean:\n    def __init__(self): ..."
    folder = job(tmp_path / "mine", components=components, files={"mine.py": mean})

    with pytest.raises(JobError, match=message) as caught:
        written(folder, tmp_path / "out")
    assert caught.value.message.startswith("app/config/config_fed_server.json: ")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_job_of_their_old_versions_becomes_one_of_theirs_today(tmp_path):
    folder = job(tmp_path / "mine")
    launcher = {"path": "nvflare.app_common.launchers.subprocess_launcher.SubprocessLauncher"}
    old = {
        "path": "nvflare.app_opt.pt.client_api_launcher_executor.PTClientAPILauncherExecutor",
        "args": {"launcher_id": "launcher", "pipe_id": "pipe", "params_transfer_type": "DIFF"},
    }
    client = {
        "format_version": 2,
        "executors": [{"tasks": ["train"], "executor": old}],
        "components": [{"id": "launcher", **launcher, "args": {"script": "python3 custom/train.py"}}],
    }
    (folder / "app/config/config_fed_client.json").write_text(json.dumps(client))

    written(folder, tmp_path / "out")

    _, _, client = configs(tmp_path / "out")
    assert client["executors"][0]["executor"]["args"]["command"] == "python3 custom/train.py"
    assert client["components"] == []


def test_scripts_that_import_our_client_api_get_a_package_of_that_name(tmp_path):
    written(job(tmp_path / "ours"), tmp_path / "out")
    written(job(tmp_path / "theirs", ADDS_ONE.replace("fedsag_cli", "nvflare")), tmp_path / "out2")

    assert (tmp_path / "out/app/custom/fedsag_cli/client/__init__.py").is_file()
    assert not (tmp_path / "out2/app/custom/fedsag_cli").exists()
    assert (tmp_path / "out/app/custom/train.py").read_text() == (tmp_path / "ours/app/custom/train.py").read_text()


def test_a_package_of_that_name_that_is_there_is_not_overwritten(tmp_path):
    folder = job(tmp_path / "mine", files={"fedsag_cli/__init__.py": "mine"})

    with pytest.raises(JobError, match="app/custom/fedsag_cli has the name"):
        written(folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_what_was_written_can_be_written_again(tmp_path):
    written(job(tmp_path / "mine"), tmp_path / "out")

    again = written(tmp_path / "out", tmp_path / "out2")

    first, second = (
        sorted(path.relative_to(out) for path in out.rglob("*")) for out in (tmp_path / "out", again.folder)
    )
    assert first == second
    assert configs(tmp_path / "out") == configs(again.folder)
    assert again.notes == []


def test_the_package_that_goes_along_has_the_modules_of_ours():
    there = {str(path.relative_to(writing.ALIAS)) for path in writing.ALIAS.rglob("*.py")}

    assert there == {"__init__.py", "model.py"} | {
        f"client/{name}.py" for name in ("__init__", "decorators", "fedprox", "hf", "lightning", "tracking")
    }


@pytest.mark.parametrize(
    "line",
    [
        "import nvflare.client.lightning as flare",
        "from fedsag_cli.client import lightning",
        "import lightning",
        "x = 1",
    ],
)
def test_what_a_script_needs_there_is_told(tmp_path, line):
    made = job(tmp_path / "mine", f"{line}\n", files={"other.py": f"{line}\n"})

    notes = written(made, tmp_path / "out").notes

    told = "a script uses the Lightning client: NVFLARE's needs the package pytorch_lightning"
    assert notes == ([told] if "client" in line else [])


def test_other_files_of_an_app_go_along_and_caches_do_not(tmp_path):
    folder = job(tmp_path / "mine", files={"deep/table.csv": "1,2", "__pycache__/x.pyc": ""})
    (folder / "app/config/more.json").write_text("{}")

    written(folder, tmp_path / "out")

    assert (tmp_path / "out/app/custom/deep/table.csv").read_text() == "1,2"
    assert (tmp_path / "out/app/config/more.json").read_text() == "{}"
    assert not list((tmp_path / "out").rglob("*.pyc"))


def test_a_job_that_is_there_is_replaced_only_by_force(tmp_path):
    folder = job(tmp_path / "mine")
    written(folder, tmp_path / "out")
    (tmp_path / "out/meta.json").write_text('{"deploy_map": {}}')

    with pytest.raises(JobError, match="there is already a job") as caught:
        written(folder, tmp_path / "out")
    assert "another folder with OUT" in caught.value.hint
    written(folder, tmp_path / "out", force=True)
    assert json.loads((tmp_path / "out/meta.json").read_text())["name"] == "mine"


def test_a_job_is_not_written_into_itself(tmp_path):
    folder = job(tmp_path / "mine")

    with pytest.raises(JobError, match="must not contain each other"):
        written(folder, folder / "out")


def test_a_bare_app_becomes_a_whole_job(tmp_path):
    app(tmp_path / "mine", ADDS_ONE)

    written(tmp_path / "mine", tmp_path / "out")

    meta = json.loads((tmp_path / "out/meta.json").read_text())
    assert (meta["name"], meta["deploy_map"]) == ("mine", {"app": ["@ALL"]})


def test_the_command_says_what_it_wrote_and_what_comes_next(tmp_path):
    job(tmp_path / "mine", components={"tb": {"path": "TBAnalyticsReceiver"}})

    done = fedsag("job", "export", "mine", "out", "--to", "nvflare", cwd=tmp_path)

    assert done.code == 0, done
    assert done.out.splitlines() == [
        f"wrote {tmp_path / 'out'} for nvflare",
        "next, with NVFLARE installed: nvflare simulator out -w WS -n 2 -t 2",
    ]
    assert "note: TBAnalyticsReceiver: NVFLARE does not run the job without the package tensorboard" in done.err


def test_scatter_and_gather_with_scaffold_is_their_workflow_that_averages_itself(tmp_path):
    """The helper goes along with the scripts."""
    assert fedsag("job", "create", "-j", "mine", "-w", "sag_pt_scaffold", cwd=tmp_path).code == 0

    done = written(tmp_path / "mine", tmp_path / "out")

    server, parts, _ = configs(tmp_path / "out")
    [flow] = server["workflows"]
    assert flow["path"] == "nvflare.app_common.workflows.scaffold.Scaffold"
    assert flow["args"] == {"num_clients": 2, "num_rounds": 5, "start_round": 0, "persistor_id": "persistor"}
    assert "aggregator" not in parts
    assert "ScatterAndGather with Scaffold: NVFLARE's Scaffold draws min_clients clients in each round" in done.notes
    assert (tmp_path / "out/app/custom/fedsag_cli/client/scaffold.py").read_bytes() == writing.HELPERS[-1].read_bytes()


@pytest.mark.parametrize("change", ["weigh_by_local_iter=false", "components[1].args.exclude_vars=^head"])
def test_what_their_scaffold_cannot_do_is_an_error_that_says_so(tmp_path, change):
    made = fedsag(
        *("job", "create", "-j", "mine", "-w", "sag_pt_scaffold", "-f", "config_fed_server.conf", change), cwd=tmp_path
    )
    assert made.code == 0, made

    with pytest.raises(JobError, match=r"Scaffold: NVFLARE's has no (weigh_by_local_iter|exclude_vars)"):
        written(tmp_path / "mine", tmp_path / "out")


@pytest.mark.parametrize(
    ("words", "code"), [(["mine", "out", "--to", "nvflre"], 2), (["nowhere", "out"], 3), (["mine"], 2)]
)
def test_a_command_that_is_wrong_writes_nothing(tmp_path, words, code):
    job(tmp_path / "mine")

    done = fedsag("job", "export", *words, cwd=tmp_path)

    assert done.code == code, done
    assert not (tmp_path / "out").exists()


@pytest.fixture
def alias(monkeypatch):
    """The package that goes along, over a stand-in for NVFLARE's that does with models what theirs does."""
    import fedsag_cli.client
    from fedsag_cli.model import FLModel

    class Theirs(types.ModuleType):
        def __init__(self):
            super().__init__("nvflare.client")
            others = [name for name in fedsag_cli.client.__all__ if name not in ("receive", "send")]
            self.__dict__.update({name: getattr(fedsag_cli.client, name) for name in others})
            self.current, self.sent, self.metas = FLModel(params={"w": np.array([1.0])}), [], []

        def receive(self, timeout=None, ctx=None):
            return self.current

        def send(self, model, ctx=None):
            self.sent.append((dict(model.params), dict(model.metrics or {})))
            self.metas.append(model.meta)
            model.params = self.current.params = None

    theirs = Theirs()
    monkeypatch.setitem(sys.modules, "nvflare", types.ModuleType("nvflare"))
    monkeypatch.setitem(sys.modules, "nvflare.client", theirs)
    context = types.SimpleNamespace(APIContext=fedsag_cli.client.APIContext)
    monkeypatch.setitem(sys.modules, "nvflare.client.api_context", context)
    namespace = {"__name__": "alias"}
    exec((writing.ALIAS / "client" / "__init__.py").read_text(), namespace)
    return types.SimpleNamespace(theirs=theirs, **namespace)


def test_with_them_tensors_in_meta_are_arrays(alias):
    torch = pytest.importorskip("torch")
    alias.receive()
    alias.send(alias.FLModel(params={"w": np.zeros(1)}, meta={"c": {"w": torch.tensor([2.0])}, "steps": 3}))

    meta = alias.theirs.metas[-1]
    assert (type(meta["c"]["w"]), meta["c"]["w"].tolist(), meta["steps"]) == (np.ndarray, [2.0], 3)


@pytest.mark.parametrize("ask", [lambda flare: flare.site(), lambda flare: flare.partition([1, 2], "shards")])
def test_with_them_a_script_that_divides_one_data_set_is_told_that_nvflare_cannot(alias, ask):
    with pytest.raises(RuntimeError, match="NVFLARE"):
        ask(alias)


def test_with_them_a_script_may_change_what_it_received(alias):
    model = alias.receive()
    model.params["w"] += 1

    assert alias.receive() is model
    assert alias.theirs.current.params["w"].tolist() == [1.0]


def test_with_them_both_models_stay_as_they_are_when_they_are_sent(alias):
    received = alias.receive()
    update = alias.FLModel(params={"w": np.array([3.0])}, metrics={"a": np.float32(0.5)})
    alias.send(update)

    assert alias.theirs.sent == [({"w": np.array([3.0])}, {"a": 0.5})]
    assert update.params is not None
    assert received.params is not None


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["fork", "spawn"])
@pytest.mark.parametrize("make", [job, torch_job])
def test_what_was_written_still_runs_here_with_the_same_bits(tmp_path, make, launcher):
    script = """
        import numpy as np
        import fedsag_cli.client as flare
        from fedsag_cli.client.tracking import SummaryWriter

        flare.init()
        writer = SummaryWriter()
        while flare.is_running():
            model = flare.receive()
            writer.add_scalar("x", 1, model.current_round)
            params = {name: value + float(np.random.rand()) for name, value in model.params.items()}
            flare.send(flare.FLModel(params=params, meta={"NUM_STEPS_CURRENT_ROUND": 3}))
    """
    folder = make(tmp_path / "mine", script, executor={"params_transfer_type": "DIFF"})
    written(folder, tmp_path / "out")

    words = ["-n", 2, "-t", 2, "--seed", 5]
    before = run(folder, *words, workspace=tmp_path / "ws1")
    after = run(tmp_path / "out", *words, "--launcher", launcher, workspace=tmp_path / "ws2")

    assert (before.code, after.code) == (0, 0), f"{before}\n{after}"
    assert after.report["digest"] == before.report["digest"]


@pytest.mark.slow
def test_what_was_written_runs_here_by_a_command_of_the_users_too(tmp_path):
    folder = job(tmp_path / "mine", ADDS_ONE, command="sh -c 'exec python3 custom/train.py'")
    written(folder, tmp_path / "out")

    ran = run(tmp_path / "out", "-n", 1)

    assert ran.code == 0, ran.err


def test_a_job_that_begins_without_a_model_has_no_persistor_with_nvflare(tmp_path):
    persistor = {"path": "NPModelPersistor", "args": {"model": {}}}
    made = job(tmp_path / "job", components={"persistor": persistor}, allow_empty_global_weights=True)

    done = export(Job.load(made), tmp_path / "out")

    server = json.loads((tmp_path / "out" / "app" / "config" / "config_fed_server.json").read_text())
    assert "persistor" not in [part["id"] for part in server["components"]]
    assert "persistor_id" not in server["workflows"][0]["args"]
    assert server["workflows"][0]["args"]["allow_empty_global_weights"] is True
    assert "NPModelPersistor is left out, as its model is empty: NVFLARE then writes no model" in done.notes
