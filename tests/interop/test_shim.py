"""Scripts that import NVFLARE's names, in the processes that a client is made of, and only there."""

import importlib
import subprocess
import sys

import pytest
from runs import job, run

import fedsag_cli.client.lightning
from fedsag_cli.interop import shim
from fedsag_cli.interop.constants import AlgorithmConstants, MetaKey, ModelName
from fedsag_cli.interop.job_scripts import with_startup

NAMES = {
    "nvflare.client": [
        "FLModel",
        "ParamsType",
        "AnalyticsDataType",
        "init",
        "log",
        "get_task_name",
        "train",
        "evaluate",
    ],
    "nvflare.client.api": ["init", "receive", "send", "clear"],
    "nvflare.client.decorator": ["train", "evaluate"],
    "nvflare.client.tracking": ["SummaryWriter", "MLflowWriter", "WandBWriter"],
    "nvflare.client.lightning": ["patch", "init", "is_running", "FLModel", "FLCallback", "logger"],
    "nvflare.apis.analytix": ["AnalyticsDataType"],
    "nvflare.apis.dxo": ["MetaKey"],
    "nvflare.apis.fl_constant": ["FLMetaKey"],
    "nvflare.app_common.abstract.fl_model": ["FLModel", "ParamsType", "FLModelConst", "MetaKey"],
    "nvflare.app_common.abstract.statistics_spec": [
        "Statistics",
        "Feature",
        "DataType",
        "Histogram",
        "Bin",
        "BinRange",
    ],
    "nvflare.app_common.statistics.numpy_utils": ["dtype_to_data_type", "get_std_histogram_buckets"],
    "nvflare.app_common.app_constant": [
        "ModelName",
        "AlgorithmConstants",
        "AppConstants",
        "DefaultCheckpointFileName",
        "ValidateType",
    ],
    "nvflare.app_common.np.constants": ["NPConstants"],
    "nvflare.app_common.utils.fedprox_utils": ["get_fedprox_mu"],
    "nvflare.app_opt.lightning": ["patch", "FLCallback"],
    "nvflare.app_opt.lightning.api": ["patch", "FLCallback"],
    "nvflare.app_opt.lightning.loggers.client_logger": ["ClientLogger"],
    "nvflare.app_common.pt.pt_scaffold": ["PTScaffoldHelper", "get_lr_values"],
    "nvflare.app_opt.pt": ["PTFedProxLoss", "PTScaffoldHelper", "get_lr_values"],
    "nvflare.app_opt.pt.fedproxloss": ["PTFedProxLoss"],
    "nvflare.app_opt.pt.scaffold": ["PTScaffoldHelper", "get_lr_values"],
    "nvflare.app_opt.sklearn.data_loader": ["load_data", "load_data_for_range"],
    "nvflare.app_opt.statistics.df.df_core_statistics": ["DFStatisticsCore"],
    "nvflare.app_opt.xgboost.data_loader": ["XGBDataLoader"],
    "nvflare.app_common.aggregators.assembler": ["Assembler"],
    "nvflare.fuel.utils.import_utils": ["optional_import"],
    "nvflare.security.logging": ["secure_format_exception", "secure_format_traceback", "secure_log_traceback"],
}
ON_A_TREADMILL = """
    import nvflare.client as flare
    from nvflare.app_common.abstract.fl_model import FLModel

    calls = []


    @flare.evaluate
    def measure(model, scale):
        calls.append(("measure", scale))
        return {evaluated}


    @flare.train()
    def train(input_model=None, delta=0, *, twice=False):
        calls.append(("train", delta, twice))
        return FLModel(params={{name: array + delta for name, array in input_model.params.items()}})


    flare.init()
    while flare.is_running():
        measure(None, 10)
        if flare.is_train():
            update = train(input_model=flare.receive(), delta=2, twice=True)
            assert update.metrics == {{"accuracy": 0.5}}, update.metrics
    print(calls)
"""


@pytest.fixture
def their_names(monkeypatch):
    """The hook, as a client's process has it, for one test."""
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    shim.install()
    yield importlib.import_module
    for name in [name for name in sys.modules if name.partition(".")[0] == "nvflare"]:
        del sys.modules[name]


@pytest.mark.parametrize("module", NAMES)
def test_what_scripts_import_is_there(their_names, module):
    if ".pt" in module:
        pytest.importorskip("torch")

    found = their_names(module)

    assert [name for name in NAMES[module] if not hasattr(found, name)] == []


def test_where_theirs_is_installed_its_own_modules_find_what_they_look_for(their_names, tmp_path, monkeypatch):
    """Ours lies over its model's module, whose other names stay; other modules beside ours are its own."""
    texts = {
        "__init__": "", "client/__init__": "1 / 0", "client/config": "THEIRS = True", "app_common/__init__": "",
        "app_common/abstract/__init__": "", "app_common/abstract/fl_model": "FLModel = 'theirs'\nInside = 'theirs'",
        "app_opt/__init__": "", "app_opt/pt/__init__": "", "app_opt/pt/fedproxloss": "PTFedProxLoss = 'theirs'",
        "app_opt/lightning/__init__": "1 / 0", "app_opt/lightning/callbacks": "THEIRS = True",
    }  # fmt: skip
    for name, text in texts.items():
        file = tmp_path / "nvflare" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)

    model = their_names("nvflare.app_common.abstract.fl_model")

    assert (model.FLModel, model.Inside) == (fedsag_cli.client.FLModel, "theirs")
    assert their_names("nvflare.client").FLModel is fedsag_cli.client.FLModel
    assert their_names("nvflare.client.config").THEIRS
    assert their_names("nvflare.app_opt.pt.fedproxloss").PTFedProxLoss == "theirs"
    assert their_names("nvflare.app_opt.lightning").patch is fedsag_cli.client.lightning.patch
    assert their_names("nvflare.app_opt.lightning.callbacks").THEIRS
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'nvflare\.app_opt\.nowhere'"):
        their_names("nvflare.app_opt.nowhere")


def test_their_client_api_is_ours(their_names):
    assert their_names("nvflare.client").FLModel is fedsag_cli.client.FLModel
    assert their_names("nvflare.client.api").receive is fedsag_cli.client.receive


def test_the_lightning_logger_has_their_name_too(their_names):
    assert their_names("nvflare.client.lightning").logger is fedsag_cli.client.lightning.ClientLogger


@pytest.mark.parametrize(
    ("line", "missing"),
    [
        ("import nvflare.client.ipc", "nvflare.client.ipc"),
        ("import nvflare.fuel.utils.log_utils", "nvflare.fuel.utils.log_utils"),
        ("from nvflare.client import IPCAgent", "nvflare.client.IPCAgent"),
        ("from nvflare.client.api import init, get_context", "nvflare.client.api.get_context"),
        ("from nvflare.app_common.app_constant import PSIConst", "nvflare.app_common.app_constant.PSIConst"),
        ("from nvflare.app_opt import psi", "nvflare.app_opt.psi"),
    ],
)
@pytest.mark.usefixtures("their_names")
def test_what_is_not_served_is_named_and_a_script_may_do_without(line, missing):
    with pytest.raises(ModuleNotFoundError) as caught:
        exec(line, {})

    assert str(caught.value) == f"fedsag has no {missing}, and nvflare is not installed"
    exec(f"try:\n    {line}\nexcept ImportError:\n    pass", {})


def test_an_import_of_what_a_module_of_ours_does_not_have_says_so(their_names):
    pytest.importorskip("torch")

    with pytest.raises(ImportError, match=r"fedsag has no nvflare\.app_opt\.pt\.scaffold\.TFScaffoldHelper"):
        exec("from nvflare.app_opt.pt.scaffold import TFScaffoldHelper, get_lr_values", {})


def test_learning_rates_are_read_from_an_optimizer_group_by_group(their_names):
    torch = pytest.importorskip("torch")
    slow, fast = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = torch.optim.SGD([{"params": [slow], "lr": 0.25}, {"params": [fast]}], lr=0.5)

    assert their_names("nvflare.app_opt.pt.scaffold").get_lr_values(optimizer) == [0.25, 0.5]


def test_the_words_that_travel_are_theirs():
    assert (ModelName.BEST_MODEL, ModelName.FINAL_MODEL) == ("best_model", "final_model")
    assert AlgorithmConstants.FEDPROX_MU == "fedprox_mu"
    assert MetaKey.NUM_STEPS_CURRENT_ROUND == "NUM_STEPS_CURRENT_ROUND"


def test_the_process_that_tests_run_in_has_no_hook():
    assert not any(type(finder).__module__ == shim.__name__ for finder in sys.meta_path)


def python(code, *folders):
    paths = ":".join(map(str, folders))
    return subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": paths}, capture_output=True, text=True)


def test_a_python_that_a_client_starts_has_the_hook():
    ran = python("import nvflare.client as flare; print(flare.FLModel.__module__)", shim.STARTUP)

    assert ran.stdout.strip() == "fedsag_cli.model", ran.stderr


@pytest.mark.parametrize(("path", "serves"), [(shim.STARTUP, "shim"), (with_startup(""), "ours")])
def test_the_path_alone_says_whether_a_python_is_a_clients_or_runs_job_scripts(path, serves):
    ran = python("import sys; print([type(each).__module__ for each in sys.meta_path])", path)

    assert [name for name in ("shim", "ours") if f".{name}'" in ran.stdout] == [serves], ran.stderr


def test_a_numpy_script_reads_what_fedprox_needs_without_torch():
    said = python(
        "import sys; sys.modules['torch'] = None\n"
        "from nvflare.app_common.app_constant import AlgorithmConstants\n"
        "from nvflare.app_common.utils.fedprox_utils import get_fedprox_mu\n"
        "from nvflare.client import FLModel\n"
        "print(get_fedprox_mu(FLModel(meta={AlgorithmConstants.FEDPROX_MU: 0.5})))",
        shim.STARTUP,
    )

    assert said.stdout.strip() == "0.5", said.stderr


def test_a_sitecustomize_of_the_users_is_run_all_the_same(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import builtins; builtins.MINE = __file__")

    ran = python(
        "import nvflare.client; import sitecustomize; print(MINE, sitecustomize.__file__)", shim.STARTUP, tmp_path
    )
    assert ran.stdout.split() == [str(tmp_path / "sitecustomize.py")] * 2, ran.stderr


def test_a_python_without_fedsag_starts_all_the_same():
    path = f"{shim.STARTUP}/sitecustomize.py"
    code = f"import runpy, sys; sys.modules['fedsag_cli'] = None; runpy.run_path({path!r}); print('started')"

    ran = python(code)

    assert ran.stdout.strip() == "started", ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize("evaluated", ["0.5", "{{'accuracy': 0.5}}"])
def test_decorated_functions_take_part(tmp_path, evaluated):
    script = ON_A_TREADMILL.format(evaluated=evaluated.replace("{{", "{").replace("}}", "}"))
    folder = job(tmp_path / "job", script, tasks=["train", "validate"])

    ran = run(folder, "-n", 2, "-t", 2)

    assert ran.code == 0, ran
    assert ran.report["rounds"][1]["metrics"] == {"accuracy": 0.5}
    assert ran.report["final_metrics"] == {"accuracy": 0.5}
    assert "('measure', 10), ('train', 2, True)" in ran.log("site-1")


@pytest.mark.slow
@pytest.mark.parametrize("decorator", ["train", "evaluate"])
def test_a_decorated_function_that_gives_nothing_is_an_error_in_it(tmp_path, decorator):
    script = f"""
        import nvflare.client as flare
        flare.init()

        @flare.{decorator}
        def works(model):
            pass

        works(None)
    """
    ran = run(job(tmp_path / "job", script), "-n", 1)

    assert ran.code == 4
    assert f"TypeError: a function with @flare.{decorator} returns" in ran.err


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["fork", "spawn"])
def test_the_tutorials_writer_reaches_the_run(tmp_path, launcher):
    script = """
        import nvflare.client as flare
        from nvflare.client.tracking import SummaryWriter

        flare.init()
        summary_writer = SummaryWriter()
        while flare.is_running():
            input_model = flare.receive()
            summary_writer.add_scalar(tag="loss_for_each_batch", scalar=0.25, global_step=input_model.current_round)
            flare.send(flare.FLModel(params=input_model.params, metrics={"mean": 1.0}))
    """
    ran = run(job(tmp_path / "job", script), "-n", 1, "--launcher", launcher)

    assert ran.code == 0, ran
    told = [(each["values"], each["step"]) for each in ran.told("ValuesLogged")]
    assert told == [({"loss_for_each_batch": 0.25}, 0), ({"loss_for_each_batch": 0.25}, 1)]


@pytest.mark.slow
def test_a_script_started_by_a_command_of_the_users_finds_their_names_too(tmp_path):
    script = """
        import nvflare.client as flare

        flare.init()
        while flare.is_running():
            flare.send(flare.receive())
    """
    folder = job(tmp_path / "job", script, command="sh -c 'exec python3 custom/train.py'")

    ran = run(folder, "-n", 2, "-t", 2)

    assert ran.code == 0, ran
