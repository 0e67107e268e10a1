"""Trees: what goes into a tensor file beside the params comes out bit by bit, and what is no tree is an error."""

import collections
import enum
import math
import struct

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import bits, numpy_values, random_bytes, torch_tensors

from fedsag_cli.errors import TensorError
from fedsag_cli.params import tensor_file, trees
from fedsag_cli.params.tensor_file import TensorFile

FLOATS = st.floats() | random_bytes(8).map(lambda raw: struct.unpack("d", raw)[0])  # every NaN too
TEXTS = st.text(max_size=20) | st.integers(1000, 2000).map(lambda size: "é" * size)
LEAVES = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.integers(-(10**400), 10**400) | FLOATS | TEXTS
    | st.binary(max_size=20) | st.binary(min_size=1020, max_size=1030) | torch_tensors() | numpy_values()
)  # fmt: skip
KEYS = st.text(max_size=5) | st.integers(-(2**63), 2**64 - 1)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=15
)


def there_and_back(tree):
    with TensorFile.write({}, trees={"t": tree}) as file:
        return file.tree("t")


def all_bits(tree):
    """What is equal only where nothing was lost: kinds, order of keys, every bit of a NaN."""
    if isinstance(tree, dict):
        return [(key, all_bits(inner)) for key, inner in tree.items()]
    if isinstance(tree, list):
        return ["list", *map(all_bits, tree)]
    return struct.pack("d", tree) if type(tree) is float else bits(tree)


@settings(max_examples=300, deadline=None)
@given(TREES)
def test_a_tree_comes_back_bit_by_bit(tree):
    back = there_and_back(tree)

    assert all_bits(back) == all_bits(tree)


def test_the_state_of_an_optimizer_comes_back_and_goes_on_as_if_nothing_had_happened():
    def net():
        torch.manual_seed(1)
        return torch.nn.Linear(3, 2)

    def step(one, optimizer):
        optimizer.zero_grad()
        one(torch.arange(3.0)).sum().backward()
        optimizer.step()

    first, second = net(), net()
    told = torch.optim.Adam(first.parameters(), lr=0.1, amsgrad=True)
    step(first, told)
    state = there_and_back({"net": first.state_dict(), "optimizer": told.state_dict()})
    again = torch.optim.Adam(second.parameters(), lr=0.1, amsgrad=True)
    second.load_state_dict(state["net"])
    again.load_state_dict(state["optimizer"])
    step(first, told)
    step(second, again)

    assert tensor_file.digest(first.state_dict()) == tensor_file.digest(second.state_dict())


def test_tuples_come_back_as_lists_and_every_dict_as_a_dict():
    pair = collections.namedtuple("pair", "a b")

    tree = {"t": (1, (2,)), "p": pair(1, 2), "o": collections.OrderedDict(z=1, a=2), "d": collections.defaultdict(list)}

    assert there_and_back(tree) == {"t": [1, [2]], "p": [1, 2], "o": {"z": 1, "a": 2}, "d": {}}


def test_params_and_several_trees_lie_in_one_file_and_do_not_see_each_other(tmp_path):
    weight = torch.arange(1000.0)
    given = {"meta": {"w": weight, "n": 1}, "state/site-1": [np.arange(3)], "": None}

    with TensorFile.write({"w": weight, "b": 2}, trees=given) as file:
        assert (list(file.entries), list(file.load()), file.trees) == (["w", "b"], ["w", "b"], list(given))
        assert file.size < 2 * 4000  # what both have lies there once
        assert file.tree("meta")["w"].equal(weight)
        assert file.tree("state/site-1")[0].tolist() == [0, 1, 2]
        assert file.tree("") is None
    tensor_file.save(tmp_path / "c", {"w": weight}, given)
    with TensorFile.open(tmp_path / "c") as file:
        assert file.tree("meta") == {"w": pytest.approx(weight), "n": 1}


def test_a_tree_that_is_not_there_is_an_error():
    with TensorFile.write({"w": 1}) as file:
        assert file.trees == []
        with pytest.raises(TensorError, match="it has no tree 'meta'"):
            file.tree("meta")


def test_a_tree_belongs_to_whoever_read_it():
    with TensorFile.write({}, trees={"t": {"w": np.zeros(2)}}) as file:
        first = file.tree("t")
        first["w"] += 1

        assert file.tree("t")["w"].tolist() == [0, 0]


def test_what_is_one_tensor_stays_one():
    weight = torch.zeros(2)

    back = there_and_back({"a": weight, "b": [weight]})
    back["a"][0] = 7

    assert back["b"][0].tolist() == [7, 0]


class Colour(enum.IntEnum):
    RED = 1


def nest(levels):
    tree = 0
    for _ in range(levels):
        tree = [tree]
    return tree


def circle():
    tree = {}
    tree["again"] = [tree]
    return tree


BAD = {
    "a set": ({"a": [0, 1, {1}]}, r"meta\['a'\]\[2\] is a set"),
    "an object": ({"a": object()}, r"meta\['a'\] is a object"),
    "the tree itself": (object(), "meta is a object"),
    "a number of a kind of its own": ([Colour.RED], r"meta\[0\] is a Colour"),
    "a complex number": ({"z": 1j}, r"meta\['z'\] is a complex"),
    "an array of objects": ({"a": {"b": np.array([None])}}, r"meta\['a'\]\['b'\] is a numpy array of dtype object"),
    "a sparse tensor": ({"a": torch.eye(2).to_sparse()}, r"meta\['a'\] is a torch tensor of .*sparse_coo"),
    "half a letter": ({"a": ["\ud800"]}, r"meta\['a'\]\[0\] is a text that UTF-8 cannot encode"),
    "a key of half a letter": ({"a": {"\ud800": 1}}, r"a key of meta\['a'\] is a text that UTF-8 cannot encode"),
    "a pair as a key": ({"a": {(1, 2): 1}}, r"meta\['a'\] has the key \(1, 2\), which is a tuple, not a text"),
    "a bool as a key": ({True: 1}, "meta has the key True, which is a bool, not a text"),
    "a key of more than 64 bits": ({2**64: 1}, "meta has the key 18446744073709551616, which is a int"),
    "too many levels": (nest(101), r"meta\[0\].*… has more than 100 levels"),
    "a circle": (circle(), r"meta\['again'\]\[0\]\['again'\].*… has more than 100 levels"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_tree_is_named_by_its_path(case):
    tree, said = BAD[case]

    with pytest.raises(TensorError, match=said) as told:
        TensorFile.write({}, trees={"meta": tree})
    assert len(str(told.value)) < 600


def test_a_hundred_levels_are_a_tree():
    assert there_and_back(nest(100)) == nest(100)


def test_a_tree_that_takes_too_much_without_its_tensors_is_an_error(monkeypatch):
    monkeypatch.setattr(trees, "_LARGEST", 1000)

    with pytest.raises(TensorError, match=r"meta takes \d+ bytes without its tensors; at most 1000 can be kept"):
        TensorFile.write({}, trees={"meta": [0.5] * 1000})


# skeletons of others


def ext(code, data):
    return msgspec.msgpack.encode(msgspec.msgpack.Ext(code, data))


HOSTILE = {
    "nothing": b"",
    "no msgpack": b"\xc1",
    "half a list": b"\x92\x01",
    "more than one value": b"\x01\x01",
    "a text that is no UTF-8": b"\xa1\xff",
    "a leaf that is not there": ext(1, (9).to_bytes(4, "little")),
    "a leaf of no number": ext(1, b""),
    "a leaf of a long number": ext(1, b"\xff" * 5000),
    "an extension of others": ext(7, b"1234"),
    "a time": ext(-1, b"\0\0\0\0"),
    "a time that there is not": ext(-1, b"\xff" * 12),
    "a list as a key": b"\x81\x91\x01\x01",
    "a dict as a key": b"\x81\x80\x01",
    "none as a key": b"\x81\xc0\x01",
    "a float as a key": b"\x81\xcb" + struct.pack(">d", math.nan) + b"\x01",
    "a nest": b"\x91" * 101 + b"\x01",
    "a nest without an end": b"\x91" * 200_000,
    "a list as long as nothing is": b"\xdd\xff\xff\xff\xff",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_skeleton_that_is_none_of_ours_is_an_error(case):
    def leaf(number):
        raise TensorError(f"not a tensor file: it has no {number}")

    with pytest.raises(TensorError, match="not a tensor file") as told:
        trees.put_together(HOSTILE[case], leaf)
    assert len(str(told.value)) < 500


def test_a_skeleton_beyond_the_limit_is_refused_before_it_is_read(monkeypatch):
    monkeypatch.setattr(trees, "_LARGEST", 10)

    with pytest.raises(TensorError, match="a tree of 11 bytes"):
        trees.put_together(b"\x01" * 11, int)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_tree_that_can_go_on_or_an_error(skeleton):
    try:
        tree = trees.put_together(skeleton, lambda number: np.zeros(number % 3))
    except TensorError:
        return

    assert all_bits(there_and_back(tree)) == all_bits(tree)
