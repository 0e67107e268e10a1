"""Random streams by (seed, site, round). Each client is a process of its own: watching changes `random.seed`."""

import hashlib
import itertools
import json
import subprocess
import sys
import textwrap

import pytest

from fedsag_cli.params.seeds import derived, of_round

FORKS = """
import json, os, random, sys, traceback
import numpy as np
if sys.argv[1] == "torch":
    import torch
    torch.set_num_threads(1)
from fedsag_cli.client.seeding import streams

def draw():
    numbers = [random.random(), float(np.random.rand())]
    return numbers + ([torch.rand(1).item()] if "torch" in sys.modules else [])

for line in sys.stdin:
    if os.fork() == 0:
        told = {}
        try:
            exec(json.loads(line), globals())
        except BaseException:
            told = traceback.format_exc()
        os.write(1, json.dumps(told).encode() + b"\\n")
        os._exit(0)
    os.wait()
"""


class Forks:
    """A process that has imported what it is to import, and runs each script in a fork of its own."""

    def __init__(self, kind):
        self._process = subprocess.Popen(
            [sys.executable, "-c", FORKS, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def told_by(self, script):
        self._process.stdin.write(json.dumps(textwrap.dedent(script)) + "\n")
        self._process.stdin.flush()
        told = json.loads(self._process.stdout.readline())
        assert isinstance(told, dict), told
        return told

    def close(self):
        self._process.communicate()


@pytest.fixture(scope="module")
def forks():
    made = {kind: Forks(kind) for kind in ("torch", "plain")}
    yield made
    for each in made.values():
        each.close()


@pytest.fixture
def told_by(forks):
    return lambda script, *, torch=False: forks["torch" if torch else "plain"].told_by(script)


def test_a_derived_seed_depends_on_every_part_and_their_order():
    seeds = [
        derived(1, "site-1", 0),
        derived(2, "site-1", 0),
        derived(1, "site-2", 0),
        derived(1, "site-1", 1),
        derived(1, 0, "site-1"),
        derived(1, "site-1"),
        derived(1, "site-10"),
    ]

    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 1 << 63 for seed in seeds)


def test_a_derived_seed_is_the_same_tomorrow():
    """SHA-256 of "5/site-1/3", by hand: checkpoints and reports of other versions rely on it."""
    expected = int.from_bytes(hashlib.sha256(b"5/site-1/3").digest()[:8], "little") >> 1

    assert derived(5, "site-1", 3) == expected


def test_the_first_workflows_seed_is_that_of_the_round_and_a_second_one_has_another():
    assert of_round(5, "site-1", 3, 0) == derived(5, "site-1", 3)
    every = itertools.product(range(3), repeat=3)
    assert len({of_round(5, "site-1", number, workflow, nth) for number, workflow, nth in every}) == 27


@pytest.mark.parametrize("torch", [False, True], ids=["without torch", "with torch"])
def test_the_same_seed_site_and_round_give_the_same_numbers_whatever_was_drawn_before(told_by, torch):
    first = """
        here = streams(5, "site-1")
        told["start"] = draw()
        for round_num in range(3):
            here.at(round_num)
            told[str(round_num)] = draw()
        told["seeded"] = here.script_seeded
    """
    second = """
        random.random(); np.random.rand(100)
        here = streams(5, "site-1")
        told["start"] = draw()
        draw()
        here.at(2)
        told["2"] = draw()
        for _ in range(50):
            draw()
        here.at(1)
        told["1"] = draw()
        told["seeded"] = here.script_seeded
    """
    one, other = told_by(first, torch=torch), told_by(second, torch=torch)

    assert len(one["0"]) == (3 if torch else 2)
    assert one["start"] == other["start"]
    assert (one["1"], one["2"]) == (other["1"], other["2"])
    assert one["seeded"] is other["seeded"] is False


def test_another_seed_site_or_round_gives_other_numbers(told_by):
    found = told_by(
        """
        from fedsag_cli.client.seeding import Streams
        for name, args in {"base": (5, "a", 1), "seed": (6, "a", 1), "site": (5, "b", 1), "round": (5, "a", 2)}.items():
            Streams(*args[:2]).at(args[2])
            told[name] = draw()
        """,
        torch=True,
    )

    for stream in range(3):
        assert len({numbers[stream] for numbers in found.values()}) == 4


@pytest.mark.parametrize(
    "seeds",
    [
        "random.seed(7)",
        "np.random.seed(7)",
        "torch.manual_seed(7)",
        "torch.random.manual_seed(7)",
        "torch.seed()",
        "from random import seed; seed(7)",
        "from numpy.random import seed; seed(7)",
        "random.seed(7); np.random.seed(7); torch.manual_seed(7)",
    ],
)
@pytest.mark.parametrize("when", ["before the first task", "in the first round"])
def test_a_script_that_seeds_itself_keeps_its_streams_and_that_is_told(told_by, seeds, when):
    before, within = (seeds, "") if when == "before the first task" else ("", seeds)
    found = told_by(
        f"""
        import torch
        here = streams(5, "site-1")
        {before}
        here.at(0)
        {within}
        state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        here.at(1)
        told["kept"] = state == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
        told["seeded"] = here.script_seeded
        """,
        torch=True,
    )

    assert found == {"kept": True, "seeded": True}


def test_a_script_that_imports_torch_itself_has_not_seeded_itself(told_by):
    """Preloaded or not, what our own seeding does is not taken for the script's."""
    found = told_by(
        """
        here = streams(5, "site-1")
        here.at(0)
        import torch
        told["seeded at import"] = here.script_seeded
        told["start"] = torch.rand(1).item()
        here.at(1)
        told["1"] = torch.rand(1).item()
        told["seeded"] = here.script_seeded
        """
    )
    preloaded = told_by(
        """
        here = streams(5, "site-1")
        told["start"] = torch.rand(1).item()
        here.at(1)
        told["1"] = torch.rand(1).item()
        """,
        torch=True,
    )

    assert found == {"seeded at import": False, "seeded": False} | preloaded


def test_a_seed_for_torch_that_a_script_imports_itself_is_the_scripts_own(told_by):
    found = told_by(
        """
        import importlib.util
        here = streams(5, "site-1")
        importlib.util.find_spec("torch")  # asks whether it is there, and imports nothing
        import torch
        torch.manual_seed(3)
        here.at(0)
        told["kept"] = torch.initial_seed() == 3
        told["seeded"] = here.script_seeded
        told["finders"] = [type(each).__name__ for each in sys.meta_path if "AtImport" in type(each).__name__]
        """
    )

    assert found == {"kept": True, "seeded": True, "finders": []}


def test_drawing_is_not_seeding(told_by):
    found = told_by(
        """
        here = streams(5, "site-1")
        for round_num in range(3):
            here.at(round_num)
            draw()
            generator = torch.Generator().manual_seed(1)
            random.Random(3); np.random.default_rng(4); np.random.RandomState(4)
            torch.rand(1, generator=generator)
        told["seeded"] = here.script_seeded
        """,
        torch=True,
    )

    assert found == {"seeded": False}


def test_a_script_that_seeds_itself_with_our_seed_later_still_counts_as_one(told_by):
    found = told_by(
        """
        here = streams(5, "site-1")
        here.at(0)
        random.seed(1)
        told["result"] = random.seed(1)
        here.at(1)
        told["seeded"] = here.script_seeded
        told["name"] = random.seed.__name__
        """
    )

    assert found == {"result": None, "seeded": True, "name": "seed"}


def test_a_process_has_one_set_of_streams(told_by):
    assert told_by('told["same"] = streams(5, "a") is streams(5, "a")') == {"same": True}
