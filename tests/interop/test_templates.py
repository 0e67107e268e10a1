"""NVFLARE's own template folders: each is listed, makes a job, and runs, or the simulator says by name what is missing.

Where its wheel is installed, or FEDSAG_NVFLARE_TEMPLATES names folders of templates (with `:` between), each of theirs
is tried; the shapes that matter are here too, in our own words.
"""

import importlib.util
import json
import os
import re
import textwrap
from pathlib import Path

import pytest
from nvflare_scripts import SCRIPTS
from runs import fedsag, run

from fedsag_cli.job.config import hocon
from fedsag_cli.job.templates import variables

SCRIPT = """
    import nvflare.client as flare

    flare.init()
    while flare.is_running():
        model = flare.receive()
        if flare.is_submit_model():
            flare.send(flare.FLModel(params=own))
        elif flare.is_evaluate():
            flare.send(flare.FLModel(metrics={"accuracy": 0.5}))
        else:
            own = {k: v + 1 for k, v in model.params.items()}
            flare.send(flare.FLModel(params=own, metrics={"accuracy": 0.5}))
"""
NET = """
    import torch


    class Net(torch.nn.Linear):
        def __init__(self, **size: int):
            super().__init__(2, 1)


    GNN = PEFTmodel = Net
"""
# what each workflow, or a part of scatter-and-gather, is called that we lack; None: it runs
MISSING = {
    "cyclic_cc_pt": None,
    "cyclic_pt": None,
    "fedopt_pt": None,
    "psi_csv": "DhPSIController",
    "sag_cross_np": None,
    "sag_cse_ccwf_pt": None,
    "sag_cse_pt": None,
    "sag_gnn": None,
    "sag_nemo": None,
    "sag_np": None,
    "sag_np_cell_pipe": None,
    "sag_np_metrics": None,
    "sag_pt": None,
    "sag_pt_deploy_map": None,
    "sag_pt_executor": None,
    "sag_pt_he": "HEInTimeAccumulateWeightedAggregator",
    "sag_pt_in_proc": None,
    "sag_pt_mlflow": None,
    "sag_pt_model_learner": None,
    "sag_tf": "TFModelPersistor",
    "sklearn_kmeans": None,
    "sklearn_linear": None,
    "sklearn_svm": None,
    "stats_df": None,
    "stats_image": None,
    "swarm_cse_pt": None,
    "swarm_cse_pt_model_learner": None,
    "vertical_xgb": "XGBFedController",
    "xgboost": "XGBFedController",
    "xgboost_tree": None,
}
MEASURE_EACH_OTHER = ("cse", "cross", "sag_pt_executor", "sag_pt_model_learner")
MATRIX = "ws/server/simulate_job/cross_site_val/cross_val_results.json"
WORKFLOWS = {
    name for name, missing in MISSING.items() if missing and missing.endswith(("Controller", "Eval", "FedOpt"))
}


def said(template):
    """What a user has to say for a job that runs, where their template leaves it open, or needs what is not here."""
    if template.name == "sag_gnn":
        return ["-f", "app_server/config_fed_server.conf", "model_class_path=net.GNN"]
    if template.name == "sag_nemo":  # by torchrun
        old = "SubprocessLauncher" in (template / "app_1" / "config_fed_client.conf").read_text()
        starts = f"{'script' if old else 'command'}=python3 -u custom/train.py"
        clients = [
            word for app in ("app_1", "app_2", "app_3") for word in ("-f", f"{app}/config_fed_client.conf", starts)
        ]
        return ["-f", "app_server/config_fed_server.conf", "model_class_path=net.PEFTmodel", *clients]
    return []


def places():
    """The folders of their templates that are here."""
    named = [Path(word) for word in os.environ.get("FEDSAG_NVFLARE_TEMPLATES", "").split(":") if word]
    spec = importlib.util.find_spec("nvflare")
    found = [Path(where, "tool", "job", "templates") for where in (spec and spec.submodule_search_locations) or ()]
    return [folder for folder in (*named, *found) if folder.is_dir()]


def templates():
    folders = [folder for place in places() for folder in sorted(place.iterdir()) if any(folder.glob("**/config_fed*"))]
    if not folders:
        return [pytest.param(None, marks=pytest.mark.skip("NVFLARE's templates are not here"))]
    return [pytest.param(folder, id=re.sub(r"\W+", "-", f"{folder}")[-60:]) for folder in folders]


@pytest.fixture
def code(tmp_path):
    """Scripts under the names that their templates start."""
    folder = tmp_path / "code"
    folder.mkdir()
    for name, text in {"cifar10.py": SCRIPT, "train.py": SCRIPT, "net.py": NET, **SCRIPTS}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text))
    return folder


@pytest.mark.parametrize("template", templates())
def test_each_of_their_templates_is_listed_makes_a_job_and_runs_or_says_what_is_missing(template, tmp_path, code):
    name = template.name
    listed = {row["name"]: row for row in json.loads(list_templates(template.parent, tmp_path, "--format", "json").out)}
    info = hocon.load(template / "info.conf") if (template / "info.conf").is_file() else {}
    assert listed[name]["description"] == info.get("description", "NA")

    scripts = ["-sd", code, *said(template)]
    plain = fedsag("job", "create", "-j", "plain", "-w", template, *scripts, cwd=tmp_path)
    assert plain.code == 0, plain
    row = settable(tmp_path / "plain")
    changed = fedsag("job", "create", "-j", "changed", "-w", name, "-d", template.parent, *scripts,
                     "-f", row.file, f"{row.key}={other(row)}", cwd=tmp_path)  # fmt: skip
    assert changed.code == 0, changed
    now = {each.key: each.value for each in variables.of_job(tmp_path / "changed") if each.file == row.file}
    assert now[row.key] == other(row)

    several = (tmp_path / "plain" / "app_server").is_dir()
    ran = run(tmp_path / "plain", *([] if several else ["-n", 2]))
    if MISSING[name] is None:
        assert ran.code == 0, ran
        assert (tmp_path / MATRIX).is_file() == any(word in name for word in MEASURE_EACH_OTHER)
        assert len(ran.report["rounds"]) == ran.report["num_rounds"]
    else:
        assert ran.code == 3, ran
        assert MISSING[name] in ran.err
        assert ("NVFLARE's workflow" in ran.err) == (name in WORKFLOWS), ran


def list_templates(folder, cwd, *words):
    listed = fedsag("job", "list_templates", "-d", folder, *words, cwd=cwd)
    assert listed.code == 0, listed
    return listed


def settable(job):
    """The first number, else the first text, of its configs."""
    rows = [row for row in variables.of_job(job) if "config_fed" in row.file and row.component != "SubprocessLauncher"]
    return next(row for kind in ("int", "text") for row in rows if row.kind == kind)


def other(row):
    return row.value + 1 if row.kind == "int" else "other"


SAG = {
    "id": "sag",
    "path": "nvflare.app_common.workflows.scatter_and_gather.ScatterAndGather",
    "args": {"min_clients": 2, "num_rounds": 1, "wait_time_after_min_received": 0, "persistor_id": "persistor"},
}
AVERAGING = [
    {"id": "persistor", "path": "nvflare.app_common.np.np_model_persistor.NPModelPersistor"},
    {
        "id": "aggregator",
        "path": "nvflare.app_common.aggregators.intime_accumulate_model_aggregator.InTimeAccumulateWeightedAggregator",
        "args": {"expected_data_kind": "WEIGHTS"},
    },
]
CLIENT = {
    "format_version": 2,
    "app_script": "train.py",
    "executors": [
        {
            "tasks": ["train"],
            "executor": {
                "path": "nvflare.app_common.executors.client_api_executor.ClientAPIExecutor",
                "args": {"execution_mode": "external_process", "command": "python3 -u custom/{app_script}"},
            },
        }
    ],
}


def template(folder, *, workflows, components=AVERAGING, client=CLIENT, meta="meta.conf"):
    """A template folder shaped as theirs are: no variables declared, meta as .conf, as .json or not there."""
    folder.mkdir(parents=True)
    server = {"format_version": 2, "workflows": workflows, "components": components}
    (folder / "info.conf").write_text('{ description = "theirs", controller_type = "server" }')
    (folder / "config_fed_server.conf").write_text(json.dumps(server))
    (folder / "config_fed_client.conf").write_text(json.dumps(client))
    if meta:
        (folder / meta).write_text(json.dumps({"name": "x", "min_clients": 2, "deploy_map": {"app": ["@ALL"]}}))
    return folder


@pytest.mark.parametrize("meta", ["meta.conf", "meta.json", None])
def test_a_template_with_a_workflow_of_ours_runs_by_name_and_by_path(tmp_path, code, meta):
    folder = template(tmp_path / "theirs" / "sag", workflows=[SAG], meta=meta)

    listed = list_templates(folder.parent, tmp_path)
    by_name = fedsag("job", "create", "-j", "a", "-w", "sag", "-d", folder.parent, "-sd", code, cwd=tmp_path)
    by_path = fedsag("job", "create", "-j", "b", "-w", "theirs/sag", "-sd", code, "-f", "config_fed_server.conf",
                     "num_rounds=2", cwd=tmp_path)  # fmt: skip

    assert re.search(r"^sag +theirs +server +NA", listed.out, re.M)
    assert (by_name.code, by_path.code) == (0, 0), (by_name, by_path)
    for job, num_rounds in [("a", 1), ("b", 2)] if meta == "meta.conf" else [("b", 2)]:
        ran = run(tmp_path / job, "-n", 2, "-t", 2)
        assert ran.code == 0, ran
        assert len(ran.report["rounds"]) == num_rounds


def test_a_template_with_a_workflow_we_lack_makes_a_job_that_says_so_at_create_and_at_simulator(tmp_path, code):
    flow = {
        "id": "psi",
        "path": "nvflare.app_common.psi.Intersection",
        "args": {"num_rounds": 3},
    }
    odd = {"id": "locator", "path": "nvflare.somewhere.Unheard"}
    folder = template(tmp_path / "psi", workflows=[flow], components=[odd])

    made = fedsag("job", "create", "-j", "j", "-w", folder, "-sd", code, "-f", "config_fed_server.conf", "num_rounds=5",
                  cwd=tmp_path)  # fmt: skip
    ran = run(tmp_path / "j", "-n", 2)

    says = "NVFLARE's workflow nvflare.app_common.psi.Intersection is not supported yet"
    assert made.code == 0
    assert says in made.out + made.err
    assert ran.code == 3
    assert says in ran.err
    assert re.search(r"known: .*CrossSiteModelEval, .*ScatterAndGather", ran.err)
    assert "Unheard" not in ran.err


def test_a_template_with_an_executor_of_its_own_makes_a_job_whose_refusal_names_it(tmp_path, code):
    client = {"executors": [{"tasks": ["train"], "executor": {"path": "executor.Trainer", "args": {"lr": 0.1}}}]}
    folder = template(tmp_path / "own", workflows=[SAG], client=client)

    made = fedsag("job", "create", "-j", "j", "-w", folder, "-sd", code, cwd=tmp_path)
    ran = run(tmp_path / "j", "-n", 2)

    assert (made.code, ran.code) == (0, 3)
    assert "app/config/config_fed_client.conf: executors[0]: fedsag has no executor executor.Trainer" in ran.err
    assert "runs a script with the Client API" in ran.err
