"""Filters and their chains: what is kept at home, and for which tasks."""

import re

import pytest
import torch
from fakes import update

from fedsag_cli import catalog
from fedsag_cli.filters import Chain
from fedsag_cli.filters.exclude_vars import ExcludeVars
from fedsag_cli.model import FLModel
from fedsag_cli.plan import FilterSpec
from fedsag_cli.testing import exchange


class Appends:
    """Writes its letter behind the text in meta."""

    def __init__(self, letter):
        self._letter = letter

    def process(self, model):
        return FLModel(params=model.params, meta={"text": model.meta["text"] + self._letter})


def exchange_of(number):
    return exchange(seed=number)


def keys(model):
    return list(model.params)


NET = update(5, **{"fc.weight": torch.ones(1), "fc.bias": torch.ones(1), "bn.weight": torch.ones(1)})


def test_a_chain_knows_by_name_what_it_removes_from_a_task():
    chain = Chain([(["train"], Appends("a")), (["train"], ExcludeVars("^fc")), (["validate"], ExcludeVars(["bn"]))])

    assert chain.excludes("train", "fc.weight")
    assert not chain.excludes("train", "bn")
    assert chain.excludes("validate", "bn")


@pytest.mark.parametrize(
    ("excluded", "left"),
    [
        ("bias", ["fc.weight", "bn.weight"]),
        (r"^fc\.", ["bn.weight"]),
        (["fc.bias", "bn.weight"], ["fc.weight"]),
        (["fc"], ["fc.weight", "fc.bias", "bn.weight"]),
        ("", ["fc.weight", "fc.bias", "bn.weight"]),
        ([], ["fc.weight", "fc.bias", "bn.weight"]),
    ],
)
def test_a_list_names_whole_keys_and_an_expression_is_looked_for_in_them(excluded, left):
    assert keys(ExcludeVars(excluded).process(NET, exchange())) == left


def test_a_filter_leaves_the_model_it_is_given_alone():
    filtered = ExcludeVars("weight").process(NET, exchange())

    assert keys(NET) == ["fc.weight", "fc.bias", "bn.weight"]
    assert filtered.meta == NET.meta


def test_a_model_without_params_passes():
    metrics = FLModel(metrics={"accuracy": 0.5})

    assert ExcludeVars("weight").process(metrics, exchange()) is metrics


def test_a_chain_goes_in_the_order_it_was_written():
    chain = Chain([(["train"], Appends("a")), (["train"], Appends("b")), (["train"], Appends("c"))])

    assert chain.process("train", FLModel(meta={"text": ""}), exchange_of).meta["text"] == "abc"


def test_a_chain_uses_the_filters_of_the_task_alone_and_patterns_count():
    chain = Chain([(["train"], Appends("a")), (["*"], Appends("b")), (["val*", "submit_model"], Appends("c"))])

    texts = {
        task: chain.process(task, FLModel(meta={"text": ""}), exchange_of).meta["text"]
        for task in ("train", "validate", "submit_model", "Train")
    }

    assert texts == {"train": "ab", "validate": "bc", "submit_model": "bc", "Train": "b"}


@pytest.mark.parametrize(
    ("made", "said"),
    [(None, "Makes.process() returned NoneType, not an FLModel"), (FLModel(params=[1.0]), "params that are a list")],
)
def test_a_filter_that_makes_no_model_is_an_error_that_names_it(made, said):
    class Makes:
        def process(self, model):
            return made

    with pytest.raises(TypeError, match=re.escape(said)):
        Chain([(["train"], Makes())]).process("train", NET, exchange_of)


def test_an_empty_chain_gives_the_very_model():
    assert Chain().process("train", NET, exchange_of) is NET


def test_a_chain_is_built_from_what_the_config_says():
    chain = catalog.chain([FilterSpec(tasks=["train"], path="ExcludeVars", args={"exclude_vars": ["fc.bias"]})])

    assert keys(chain.process("train", NET, exchange_of)) == ["fc.weight", "bn.weight"]
    assert keys(chain.process("validate", NET, exchange_of)) == ["fc.weight", "fc.bias", "bn.weight"]
