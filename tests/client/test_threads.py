"""The numbers of threads that a script sets are followed, though torch was imported before the script started."""

import os
import sys
import types

import pytest

from fedsag_cli.client import threads


@pytest.fixture
def counts(monkeypatch):
    """What a torch that is imported is told."""
    told = []
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(set_num_threads=told.append))
    monkeypatch.setattr(threads, "_openblas", list)
    before, given = os.environ.__class__, dict(os.environ)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.pop(name, None)
    yield told
    os.environ.__class__ = before
    os.environ.clear()
    os.environ.update(given)


def test_what_the_run_says_holds_until_the_script_says_otherwise(counts):
    os.environ["OMP_NUM_THREADS"] = "4"
    threads.follow()
    assert counts == [4]

    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", "8")  # it is set already
    os.environ.setdefault("MKL_NUM_THREADS", "2")
    os.environ.update(OMP_NUM_THREADS="3,1")
    os.environ["OPENBLAS_NUM_THREADS"] = "9"  # not torch's

    assert counts == [4, 1, 2, 3]


@pytest.mark.parametrize("value", ["", "0", "-1", "all", "1.5"])
def test_a_value_that_libraries_do_not_use_is_not_used_here_either(counts, value):
    threads.follow()
    os.environ["OMP_NUM_THREADS"] = value

    assert counts == []
    assert os.environ["OMP_NUM_THREADS"] == value


def test_without_torch_there_is_nothing_to_tell(counts, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    os.environ["OMP_NUM_THREADS"] = "2"

    threads.follow()

    assert counts == []
