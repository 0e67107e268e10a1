"""What components of the job's own code keep from round to round."""

import random
import sys
import threading
from types import ModuleType

import numpy as np
import pytest
import torch

from fedsag_cli.aggregators.fedavg import FedAvg
from fedsag_cli.facts import Facts
from fedsag_cli.model import FLModel
from fedsag_cli.server.memory import Memory


class Own:
    """A component; `change` is what it does in a round."""

    def __init__(self, change=lambda self: None, **has):
        self.change = change
        self.__dict__ |= has

    def aggregate(self):
        self.change(self)


def keeps(part):
    memory = Memory({"aggregator": part})
    first = memory.changed()
    part.aggregate()
    assert first == []
    return memory.changed()


def sets(name, value):
    return lambda self: setattr(self, name, value)


def in_place(self):
    self.v += 1


@pytest.mark.parametrize(
    "part",
    [
        Own(sets("v", 1.0), v=None),
        Own(sets("new", 1)),
        Own(in_place, v=np.zeros(3)),
        Own(in_place, v=np.zeros(100_000)),
        Own(in_place, v=torch.zeros(100_000)),
        Own(lambda self: self.seen.append(1), seen=[]),
        Own(lambda self: self.model.params["w"].fill(2), model=FLModel(params={"w": np.zeros(2)})),
        Own(lambda self: self.draws.standard_normal(), draws=np.random.default_rng(1)),
        Own(lambda self: self.draws.random(), draws=random.Random(1)),
        Own(lambda self: self.inner.aggregate(), inner=Own(in_place, v=1)),
    ],
    ids=["value", "new", "array", "large array", "tensor", "list", "model", "numpy's numbers", "random", "inside"],
)
def test_what_a_component_changes_in_a_round_is_named(part):
    (text,) = keeps(part)

    assert text.startswith(f"aggregator ({__name__}.Own): ")


@pytest.mark.parametrize(
    "part",
    [
        Own(beta=0.9, names=["a"], weights=torch.ones(2)),
        Own(lambda self: self.got.append(1) or self.got.clear(), got=[]),
        Own(sets("v", 0.5), v=0.5),
        Own(lock=threading.Lock(), function=lambda: 1, module=sys),
        FedAvg(),
    ],
    ids=["settings", "emptied", "the same", "what cannot be compared", "ours"],
)
def test_a_component_that_is_as_it_was_keeps_nothing(part):
    part.aggregate()
    memory = Memory({"aggregator": part})
    part.aggregate()

    assert memory.changed() == []


def test_a_component_may_say_that_it_does_not_matter():
    class Counts(Own):
        facts = Facts(keeps_nothing=True)

    assert keeps(Counts(in_place, v=0)) == []


def test_a_global_of_its_module_counts(monkeypatch):
    module = ModuleType("mom")
    module.history = []
    monkeypatch.setitem(sys.modules, "mom", module)
    own = type("Momentum", (Own,), {"__module__": "mom"})

    assert keeps(own(lambda self: module.history.append(1))) == ["the module mom: history"]


def test_what_all_objects_of_a_class_have_counts():
    class Base(Own):
        seen = []  # noqa: RUF012  the fault

    class Momentum(Base):
        pass

    (text,) = keeps(Momentum(lambda self: self.seen.append(1)))

    assert text.startswith(f"the class {__name__}.")
    assert text.endswith(".Base: seen")


def test_what_is_back_to_what_it_was_has_changed_in_between_all_the_same():
    part = Own(v=0)
    memory = Memory({"aggregator": part})
    for value in (1, 0):
        part.v = value
        found = memory.changed()

    assert len(found) == 1
