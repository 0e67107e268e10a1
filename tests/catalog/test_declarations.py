"""What a component declares beside its class is read from its source, and is what Python has at run time."""

import importlib
import sys

import pytest

from fedsag_cli import catalog
from fedsag_cli.arguments import Argument, Least, Needs, OneOf, declared
from fedsag_cli.errors import JobError
from fedsag_cli.facts import Facts, Nvflare
from fedsag_cli.plan import ComponentSpec

SOURCE = """
from __future__ import annotations

import os
import typing as t
from typing import Annotated, Optional, TypeAlias, Union

from fedsag_cli.arguments import Least, Needs
from fedsag_cli.arguments import OneOf as Choice
from fedsag_cli.facts import Facts, Nvflare
from rules_for_a_test import Rounds, WORDS
from .rules_for_a_test import Rounds as Relative

Mu: TypeAlias = Annotated[Optional[float], Least(0), "coefficient"]
LOWEST = -1
ASKS = ("task_name",)


class Part:
    facts = Facts(asks_for=ASKS, nvflare=Nvflare(path="nvflare.a.B", ignored=["x"], defaults={"y": LOWEST}))

    def __init__(
        self,
        other,
        rounds: Rounds = 5,
        mu: Mu = None,
        how: Annotated[str, Choice(WORDS), "the way", print("run")] = "sum",
        low: "Annotated[int | None, Least(LOWEST), Needs('mu')]" = LOWEST,
        either: Union[int, str, None] = None,
        names: list[str] | None = None,
        path: t.Annotated[str, Least(os.environ)] = os.sep,
        wrong: Annotated[int, Least("x"), Least(1, 2, 3), Choice(5)] = 1,
        *,
        anything: t.Any = print("run"),
    ) -> None: ...
"""
RULES = """
from typing import Annotated
from fedsag_cli.arguments import Least
WORDS = ["sum", "mean"]
Rounds = Annotated[int, Least(1), "number of rounds"]
"""


@pytest.fixture
def custom(tmp_path):
    def write(source, rules=RULES):
        (tmp_path / "part_for_a_test.py").write_text(source)
        (tmp_path / "rules_for_a_test.py").write_text(rules)
        return [tmp_path]

    return write


@pytest.mark.parametrize("name", catalog.KNOWN)
def test_what_is_read_from_the_source_is_what_python_has(name):
    module, _, last = catalog.class_path(name).rpartition(".")
    made = getattr(importlib.import_module(module), last)

    assert list(catalog.signature_of(name).arguments) == list(declared(made.__init__))
    assert catalog.facts_of(name) == made.facts


@pytest.mark.parametrize("name", catalog.KNOWN)
def test_every_argument_of_our_components_has_a_meaning(name):
    assert [each.name for each in catalog.signature_of(name).arguments if not each.meaning] == []


def test_arguments_are_read_through_aliases_constants_and_imports_and_nothing_is_run(custom, capsys):
    found = catalog.signature_of("part_for_a_test.Part", custom(SOURCE))

    assert found.arguments == [
        Argument(name="other", required=True),
        Argument(name="rounds", kind="int", rules=(Least(1),), meaning="number of rounds", default=5),
        Argument(name="mu", kind="float | None", rules=(Least(0),), meaning="coefficient"),
        Argument(name="how", kind="str", rules=(OneOf(["sum", "mean"]),), meaning="the way", default="sum"),
        Argument(name="low", kind="int | None", rules=(Least(-1), Needs("mu")), default=-1),
        Argument(name="either", kind="int | str | None"),
        Argument(name="names", kind="list | None"),
        Argument(name="path", kind="str"),
        Argument(name="wrong", kind="int", default=1),
        Argument(name="anything"),
    ]
    assert capsys.readouterr().out == ""
    assert not {"part_for_a_test", "rules_for_a_test"} & set(sys.modules)


def test_facts_are_read_from_the_source_and_a_class_without_them_has_none(custom):
    search = custom(SOURCE + "\n\nclass Plain:\n    facts = print('run')\n\n\nclass Bare: ...\n")

    assert catalog.facts_of("part_for_a_test.Part", search) == Facts(
        asks_for=("task_name",), nvflare=Nvflare(path="nvflare.a.B", ignored=["x"], defaults={"y": -1})
    )
    assert [catalog.facts_of(f"part_for_a_test.{name}", search) for name in ("Plain", "Bare", "Nobody")] == [
        Facts()
    ] * 3


@pytest.mark.parametrize(
    ("source", "rules"),
    [
        ("A = [B, B]\n", ""),  # it refers to itself
        ("".join(f"A{n} = [A{n + 1}, A{n + 1}]\n" for n in range(60)) + "A60 = [1]\nA = A0\n", ""),
        ("from rules_for_a_test import A\n", "from part_for_a_test import A\n"),
        ("from rules_for_a_test import A\n", "A = ("),
        ("from nowhere_at_all import A\n", ""),
        ("from rules_for_a_test import *\n", "A = 1\n"),
        ("import rules_for_a_test as A\n", ""),
    ],
)
def test_what_cannot_be_read_to_its_end_is_no_declaration(custom, source, rules):
    init = "class Part:\n    facts = A\n    def __init__(self, x: Annotated[int, A, 'meaning'] = A, y: A = 2): ...\n"

    search = custom(source.replace("B", "A") + init, rules)

    found = catalog.signature_of("part_for_a_test.Part", search)
    assert [(each.name, each.rules, each.default) for each in found.arguments] == [
        ("x", (), None if "A = 1" not in rules else found.arguments[0].default),
        ("y", (), 2),
    ]
    assert catalog.facts_of("part_for_a_test.Part", search) == Facts()


@pytest.mark.parametrize(
    "argument",
    [
        "x: Annotated[()] = 1",
        "x: Annotated[str, {[1]: 2}] = 1",
        "x: 'i\\0nt' = 1",
        f"x: '{'-' * 20_000}x' = 1",
        "x: None = 1",
    ],
)
def test_an_annotation_that_python_cannot_evaluate_declares_nothing(custom, argument):
    search = custom(f"class Part:\n    def __init__(self, {argument}, y={{[1]: 2}}): ...\n")

    found = catalog.signature_of("part_for_a_test.Part", search)
    assert [(each.name, each.kind.removeprefix("str"), each.default) for each in found.arguments] == [
        ("x", "", 1),
        ("y", "", None),
    ]


def test_an_import_that_python_cannot_read_declares_nothing(custom):
    search = custom(SOURCE, "-" * 20_000 + "1\n")

    found = catalog.signature_of("part_for_a_test.Part", search)
    assert {each.name: each.kind for each in found.arguments}["rounds"] == ""


@pytest.mark.parametrize("default", ["...", "b'x'", "1j", "1e999", "{(1, 2): 3}", "{'a': {'b': [...]}}"])
def test_a_default_that_a_config_file_cannot_have_is_not_shown(custom, default):
    search = custom(f"class Part:\n    def __init__(self, x={default}, y=('a', {{'b': None}})): ...\n")

    found = catalog.signature_of("part_for_a_test.Part", search)
    assert [(each.default, each.required) for each in found.arguments] == [
        (None, False),
        (("a", {"b": None}), False),
    ]


def test_a_need_that_is_no_name_is_left_out(custom):
    search = custom(SOURCE.replace("Needs('mu')", "Needs(['mu'])"))

    found = catalog.signature_of("part_for_a_test.Part", search)
    assert {each.name: each.rules for each in found.arguments}["low"] == (Least(-1),)


@pytest.mark.parametrize("annotation", ["int", "'int'", "Optional[int]", "int | None", "Annotated[int, Least(1)]"])
def test_an_argument_whose_default_is_none_takes_none(custom, annotation):
    search = custom(SOURCE.replace("rounds: Rounds = 5", f"rounds: {annotation} = None"))

    found = catalog.signature_of("part_for_a_test.Part", search)
    assert {each.name: each.kind for each in found.arguments}["rounds"] == "int | None"


def test_an_argument_whose_default_is_a_name_of_none_takes_none(custom):
    search = custom("NOTHING = None\n\nclass Part:\n    def __init__(self, x: str = NOTHING, y: str = 'a'): ...\n")

    found = catalog.signature_of("part_for_a_test.Part", search)
    assert [each.kind for each in found.arguments] == ["str | None", "str"]


def test_of_overloads_the_one_that_runs_is_the_signature(custom):
    search = custom(
        "class Part:\n    @overload\n    def __init__(self, x: int): ...\n    def __init__(self, x, y=None): ...\n"
    )

    assert catalog.signature_of("part_for_a_test.Part", search).takes("y")


@pytest.mark.parametrize(
    "around", ["if True:", "try:", "try:\n    pass\nexcept ImportError:\n    pass\nelse:", "with open('x'):"]
)
def test_a_class_that_is_made_under_a_condition_is_there_without_a_signature(custom, around):
    end = "\nexcept ImportError:\n    pass\n" if around == "try:" else "\n"
    search = custom(f"{around}\n    class Part:\n        def method(self): ...{end}")

    assert catalog.signature_of("part_for_a_test.Part", search) is None
    with pytest.raises(JobError, match="has no class 'method'"):
        catalog.signature_of("part_for_a_test.method", search)


@pytest.mark.parametrize(("args", "asked"), [({}, ["train"]), ({"train_task_name": ""}, [""])])
def test_a_workflow_asks_for_the_task_that_it_is_given_also_where_that_has_no_name(args, asked):
    assert catalog.tasks_asked_for(ComponentSpec(path="ScatterAndGather", args=args)) == asked
