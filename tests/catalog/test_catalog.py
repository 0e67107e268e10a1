"""What a job may name: names become objects, ids the objects they stand for; all that is wrong is named."""

import subprocess
import sys

import pytest

from fedsag_cli import catalog
from fedsag_cli.aggregators.fedavg import FedAvg
from fedsag_cli.catalog import signatures
from fedsag_cli.errors import JobError
from fedsag_cli.persistors.numpy import NPModelPersistor
from fedsag_cli.plan import ComponentSpec
from fedsag_cli.workflows.scatter_and_gather import ScatterAndGather


@pytest.fixture
def custom(tmp_path, monkeypatch):
    """A job's custom/ folder, with a module only this test knows."""
    folder = tmp_path / "custom"
    folder.mkdir()
    (folder / "mine_catalog.py").write_text(
        """
import os.path as found_elsewhere
from collections import OrderedDict

class Plain:
    pass

class Net:
    def __init__(self, size, *, scale: float = 0.5, names=("a",), inner=None, made=len("x")):
        self.size, self.scale, self.names, self.inner = size, scale, names, inner

class Open:
    def __init__(self, **kwargs):
        self.kwargs = kwargs

class Breaks:
    def __init__(self):
        raise RuntimeError("my own fault")
"""
    )
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    sys.modules.pop("mine_catalog", None)


def spec(path, **args):
    return ComponentSpec(path=path, id="part", args=args)


@pytest.mark.parametrize("name", catalog.KNOWN)
def test_every_known_name_is_a_class_of_that_name_with_a_signature(name):
    module, _, class_name = catalog.class_path(name).rpartition(".")

    assert class_name == name
    assert isinstance(getattr(__import__(module, fromlist=[name]), name), type)
    assert catalog.signature_of(name) is not None


def test_a_class_path_stands_for_itself():
    assert catalog.class_path("net.Net") == "net.Net"


def test_a_signature_is_read_without_importing(custom):
    found = catalog.signature_of("mine_catalog.Net", [custom])

    assert [(each.name, each.kind, each.default, each.required) for each in found.arguments] == [
        ("size", "", None, True),
        ("scale", "float", 0.5, False),
        ("names", "", ("a",), False),
        ("inner", "", None, False),
        ("made", "", None, False),
    ]
    assert "mine_catalog" not in sys.modules


def test_a_signature_takes_its_arguments_and_ids_of_components_in_their_place(custom):
    found = catalog.signature_of("ScatterAndGather")

    assert found.takes("num_rounds")
    assert found.takes("aggregator_id")
    assert not found.takes("num_round")
    assert catalog.signature_of("mine_catalog.Open", [custom]).takes("anything")


@pytest.mark.parametrize(
    "name", ["mine_catalog.Plain", "mine_catalog.OrderedDict", "collections.abc.Sized", "_json.Scanner"]
)
def test_where_the_source_does_not_tell_there_is_no_signature(name, custom):
    assert catalog.signature_of(name, [custom]) is None


@pytest.mark.parametrize(
    ("name", "says", "hint"),
    [
        ("ScatterAndGatherr", "there is no component 'ScatterAndGatherr'", "'ScatterAndGather'"),
        ("mine_catalog.Nett", "mine_catalog.py has no class 'Nett'", "'Net'"),
        ("nobody_here.Net", "no module 'nobody_here'", ""),
    ],
)
def test_a_name_that_is_not_there_is_an_error_with_the_nearest(name, says, hint, custom):
    with pytest.raises(JobError, match=says) as caught:
        catalog.signature_of(name, [custom])

    assert hint in caught.value.hint


def test_a_module_that_does_not_parse_is_an_error_with_its_line(custom):
    (custom / "broken_catalog.py").write_text("x = 1\nclass Net(:\n")

    with pytest.raises(JobError, match=r"broken_catalog\.py:2"):
        catalog.signature_of("broken_catalog.Net", [custom])


def test_a_jobs_own_module_comes_before_one_of_python(tmp_path):
    (tmp_path / "json.py").write_text("class Mine: ...")

    assert signatures.find_module("json", [tmp_path]) == tmp_path / "json.py"
    assert signatures.find_module("json").parts[-2:] == ("json", "__init__.py")


def test_a_component_is_built_with_its_arguments():
    built = catalog.build(spec("NPModelPersistor", model=[1, 2]), {})

    assert isinstance(built, NPModelPersistor)
    assert built.load().params["numpy_key"].tolist() == [1, 2]


def test_ids_become_the_components_they_stand_for():
    parts = {"agg": FedAvg(), "keeper": NPModelPersistor()}

    built = catalog.build(spec("ScatterAndGather", aggregator_id="agg", persistor_id="keeper", num_rounds=1), parts)

    assert isinstance(built, ScatterAndGather)
    assert built._aggregator is parts["agg"]
    assert built._rounds.persistor is parts["keeper"]


@pytest.mark.parametrize("nobody", ["", None])
def test_an_empty_id_is_left_to_the_default(nobody):
    parts = {"agg": FedAvg(), "keeper": NPModelPersistor()}

    built = catalog.build(
        spec("ScatterAndGather", aggregator_id="agg", persistor_id="keeper", model_selector_id=nobody), parts
    )

    assert built._rounds.selector is None


def test_an_id_nobody_has_is_an_error_with_the_nearest():
    with pytest.raises(JobError, match=r"'part' \(ScatterAndGather\): aggregator_id is 'aggg'") as caught:
        catalog.build(spec("ScatterAndGather", aggregator_id="aggg"), {"agg": FedAvg()})

    assert "'agg'" in caught.value.hint


def test_a_nested_class_is_built_too_and_a_plain_dict_is_not(custom):
    args = {
        "size": 1,
        "inner": {"path": "mine_catalog.Net", "args": {"size": 2, "inner": [{"class_path": "mine_catalog.Plain"}]}},
        "names": {"path": "mine_catalog.Net", "config_type": "dict"},
    }

    built = catalog.build(spec("mine_catalog.Net", **args), {})

    assert built.inner.size == 2
    assert type(built.inner.inner[0]).__name__ == "Plain"
    assert built.names == {"path": "mine_catalog.Net", "config_type": "dict"}


def test_the_description_of_an_optimizer_without_its_config_type_is_an_error_that_names_it(custom):
    adam = {"path": "torch.optim.Adam", "args": {"lr": 0.1}}

    with pytest.raises(JobError, match=r"component 'torch.optim.Adam' cannot be built: TypeError: .*'params'") as wrong:
        catalog.build(spec("FedOpt", optimizer_args=adam), {})

    assert 'config_type = "dict"' in wrong.value.hint


@pytest.mark.parametrize(
    ("path", "args", "says"),
    [
        ("mine_catalog.Breaks", {}, r"'part' \(mine_catalog.Breaks\) cannot be built: RuntimeError: my own fault"),
        ("mine_catalog.Net", {}, "cannot be built: TypeError.*size"),
        ("mine_catalog.Net", {"size": 1, "colour": 2}, "cannot be built: TypeError.*colour"),
        ("mine_catalog.Nobody", {}, "cannot be imported.*Nobody"),
        ("nobody_here.Net", {}, "cannot be imported.*nobody_here"),
        ("FedAvgg", {}, "there is no component 'FedAvgg'"),
        ("ScatterAndGather", {"aggregator": {}, "persistor": {}, "num_rounds": 0}, "num_rounds must be"),
        (
            "ScatterAndGather",
            {"aggregator": {}, "persistor": {}, "model_selector": "selector"},
            "model_selector must be a component, not 'selector': name it by its id, in model_selector_id",
        ),
    ],
)
def test_what_cannot_be_built_is_an_error_naming_component_and_reason(path, args, says, custom):
    with pytest.raises(JobError, match=says):
        catalog.build(spec(path, **args), {})


@pytest.mark.parametrize("there", [True, False])
def test_a_part_that_is_made_for_another_system_is_refused_with_what_takes_its_place(tmp_path, monkeypatch, there):
    module = "from nvflare.aggregators import Base\nclass Median(Base): pass\n"
    (tmp_path / "theirs_catalog.py").write_text(module)
    if there:
        (tmp_path / "nvflare").mkdir()
        (tmp_path / "nvflare" / "aggregators.py").write_text("class Base: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    says = "is written for NVFLARE: it is a Base" if there else "cannot be imported: No module named 'nvflare"

    try:
        with pytest.raises(JobError, match=rf"'part' \(theirs_catalog.Median\) {says}") as raised:
            catalog.build(spec("theirs_catalog.Median"), {})
    finally:
        for name in [name for name in sys.modules if name.startswith(("nvflare", "theirs_catalog"))]:
            del sys.modules[name]

    assert "an aggregator has accept(reply) and aggregate(), a filter has process(model, exchange)" in raised.value.hint


@pytest.mark.parametrize(
    ("source", "kind", "instead"),
    [
        (
            "from nvflare.apis.impl.controller import Controller\nclass A(Controller): pass",
            "Controller",
            "a workflow has",
        ),
        ("import nvflare.app_common.workflows.cyclic as c\nclass A(c.Cyclic): pass", "Cyclic", "a workflow has run("),
        (
            "from nvflare.x import PrivacyFilter as F\nclass B(F): pass\nclass A(B): pass",
            "PrivacyFilter",
            "a filter has",
        ),
        ("import nvflare\nclass A(nvflare.x.Aggregator): pass", "Aggregator", "an aggregator has accept("),
        (
            "from nvflare.widgets.widget import Widget\nclass A(int, Widget): pass",
            "Widget",
            "disabled = true",
        ),
        ("from nvflare.apis.x import Y\nclass A(Y): pass", "Y", "reply) and aggregate(), a f"),
    ],
)
def test_a_class_that_derives_from_nvflares_is_told_by_its_source_which_methods_take_its_place(
    tmp_path, source, kind, instead
):
    (tmp_path / "theirs_catalog.py").write_text(source)

    with pytest.raises(JobError, match=f"^theirs_catalog.A is written for NVFLARE: it is a {kind} ") as raised:
        catalog.check_base("theirs_catalog.A", [tmp_path])
    assert instead in raised.value.hint


@pytest.mark.parametrize(
    "source",
    [
        "class A: pass",
        "class A(A): pass",
        "from torch.nn import Module\nclass A(Module): pass",
        "from nvflare.apis.dxo_filter import DXOFilter\nclass A(DXOFilter): pass",
        "try:\n    from nvflare.apis.x import Y as F\nexcept ImportError:\n    F = object\nclass A(F): pass",
        "class A(",
    ],
)
def test_a_class_that_needs_nothing_of_nvflare_is_fine(tmp_path, source):
    (tmp_path / "own_catalog.py").write_text(source)

    catalog.check_base("own_catalog.A", [tmp_path])
    catalog.check_base("nvflare.apis.filter.Filter", [tmp_path])


def test_what_needs_torch_is_known_by_its_name_or_path():
    assert catalog.facts_of("PTFileModelPersistor").needs_torch
    assert catalog.facts_of("fedsag_cli.persistors.torch.PTFileModelPersistor").needs_torch
    assert not catalog.facts_of("NPModelPersistor").needs_torch


def test_looking_names_up_imports_no_torch_and_no_numpy():
    code = (
        "import sys; from fedsag_cli import catalog;"
        "[catalog.signature_of(name) for name in catalog.KNOWN];"
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'safetensors')))"
    )

    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
