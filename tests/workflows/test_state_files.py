"""The states of sites on disk: a round writes what it has changed, and a run goes on with all of it."""

import hypothesis
import pytest
import torch
from fakes import open_descriptors
from hypothesis import strategies as st

from fedsag_cli import record
from fedsag_cli.errors import TensorError
from fedsag_cli.events import RoundFinished
from fedsag_cli.model import FLModel
from fedsag_cli.params.tensor_file import TensorFile
from fedsag_cli.workflows import checkpoints, state_files
from fedsag_cli.workflows.run import Run
from fedsag_cli.workflows.state_files import StateFiles

SIZE = 1000  # bytes of a state
RUNS = []  # of a test


class Sites:
    """What sites keep, as the server has it: here, each a number."""

    def __init__(self):
        self.files = None
        self._changed = {}

    def keep(self, **numbers):
        for site, number in numbers.items():
            self._changed[site] = TensorFile.write({"n": number, "fill": b"x" * SIZE})

    def changed(self):
        return self._changed

    def saved(self):
        for file in self._changed.values():
            file.close()
        self._changed = {}

    def found(self, folder, names):
        """By site, the numbers that the files have."""
        return {site: self._number(site, folder) for site in names if site in self.files}

    def _number(self, site, folder):
        with self.files.read(site, folder) as file:
            return int(file.load()["n"])


class Lived:
    """A run in a folder, that may be continued at any time."""

    def __init__(self, folder):
        self.folder, self.sites = folder, Sites()
        self.run = Run.resumed(folder, emit=lambda event: None)
        self.run.keep_states(self.sites)
        RUNS.append(self.run)

    def round(self, **numbers):
        """The bytes of the new files, after a round in which these sites changed what they keep."""
        before = set(self.folder.glob("states-*"))
        self.sites.keep(**numbers)
        number = self.run.next_round
        ended = RoundFinished(round_num=number, sites=[], metrics={}, wait_s=0, aggregate_s=0, save_s=0)
        self.run.finish_round(ended, FLModel(params={"w": torch.tensor([float(number)])}))
        return sum(path.stat().st_size for path in set(self.folder.glob("states-*")) - before)


def kept_in(folder, names):
    """What a run would go on with."""
    found = Lived(folder)
    return found.run.next_round, found.sites.found(folder, names)


def names(folder):
    return sorted(path.name for path in folder.glob("states-*"))


def damage(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


@pytest.fixture(autouse=True)
def _end_all_runs():
    """Otherwise their threads write to the disk during a later test."""
    yield
    while RUNS:
        RUNS.pop().close()


@pytest.fixture
def tight(monkeypatch):
    """A byte too much is too much; three states fill a file."""
    monkeypatch.setattr(state_files, "_SPARE", 0)
    monkeypatch.setattr(state_files, "_LEAST_SIZE", 1)
    monkeypatch.setattr(state_files, "_MOST_STATES", 3)


def test_a_round_costs_what_it_has_changed_however_many_sites_there_are(tmp_path):
    run = Lived(tmp_path)
    sites = [f"site-{number}" for number in range(400)]
    first = run.round(**dict.fromkeys(sites, 0))
    before = open_descriptors()
    sizes = [run.round(**dict.fromkeys(sites[number : number + 4], number)) for number in range(0, 400, 4)]

    assert first >= 400 * SIZE
    assert max(sizes) < 4 * (SIZE + 600)  # with the header of each tensor file
    assert len(open_descriptors() - before) <= 1  # a folder may be waited for at the moment
    assert run.round() == 0
    assert kept_in(tmp_path, sites) == (102, {f"site-{number}": number // 4 * 4 for number in range(400)})


def test_files_that_are_mostly_superseded_are_written_again_and_never_more_than_is_freed(tmp_path, tight):
    run = Lived(tmp_path)
    sites = [f"site-{number}" for number in range(30)]
    run.round(**dict.fromkeys(sites, 0))
    written = changed = 0
    for number in range(1, 200):
        some = [sites[number * step % 30] for step in (7, 11)]
        written += run.round(**dict.fromkeys(some, number))
        changed += len(set(some))
        in_use = sum(path.stat().st_size for path in run.run._files.states.paths)
        assert in_use < 2 * 30 * (SIZE + 600) + 2000

    assert written < 2.2 * changed * (SIZE + 600)


def test_a_file_goes_with_the_last_state_in_it(tmp_path):
    run = Lived(tmp_path)
    run.round(a=1, b=1)
    run.round(a=2)
    run.round(b=3)
    run.run.close()

    assert names(tmp_path) == ["states-000001.safetensors", "states-000002.safetensors"]
    assert kept_in(tmp_path, "ab") == (3, {"a": 2, "b": 3})


@hypothesis.given(
    rounds=st.lists(st.tuples(st.sets(st.sampled_from("abcdefg"), max_size=7), st.booleans()), max_size=12)
)
@hypothesis.settings(
    max_examples=25, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_whatever_changes_and_whenever_a_run_is_continued_all_is_there(rounds, tmp_path_factory, tight):
    folder = tmp_path_factory.mktemp("run")
    run, wanted = Lived(folder), {}
    for number, (changed, is_continued) in enumerate(rounds):
        run.round(**dict.fromkeys(changed, number))
        wanted |= dict.fromkeys(changed, number)
        if is_continued:
            run = Lived(folder)
        assert run.sites.found(folder, "abcdefg") == wanted
    run.run.close()

    assert kept_in(folder, "abcdefg") == (len(rounds), wanted)


def test_a_kill_before_the_line_of_a_round_leaves_what_was_kept_before_it(tmp_path):
    run = Lived(tmp_path)
    run.round(a=1, b=1)
    size = (tmp_path / "record.jsonl").stat().st_size
    run.round(a=2, b=2)  # the file of the round before is on the disk, and stays
    for end in (size + 100, size):
        with (tmp_path / "record.jsonl").open("r+b") as file:
            file.truncate(end)
        assert kept_in(tmp_path, "ab") == (1, {"a": 1, "b": 1})

    again = Lived(tmp_path)
    again.round(b=5)
    assert kept_in(tmp_path, "ab") == (2, {"a": 1, "b": 5})
    again.run.close()
    assert names(tmp_path) == ["states-000000.safetensors", "states-000002.safetensors"]


def test_a_damaged_file_of_states_is_named_and_an_earlier_round_is_continued_if_its_files_are_there(tmp_path):
    run = Lived(tmp_path)
    run.round(a=1, b=1)
    run.round(a=2)
    damage(tmp_path / "states-000001.safetensors")

    found = Lived(tmp_path)
    assert found.sites.found(tmp_path, "ab") == {"a": 1, "b": 1}
    assert "states-000001.safetensors is no checkpoint of this run" in found.run.notes[0]

    damage(tmp_path / "states-000000.safetensors")
    with pytest.raises(TensorError, match="is no checkpoint of this run"):
        Lived(tmp_path)
    (tmp_path / "states-000001.safetensors").unlink()
    with pytest.raises(TensorError, match=r"the checkpoint .*states-000001.safetensors is gone"):
        Lived(tmp_path)


def test_large_ones_are_proven_while_the_next_round_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "_SMALL", SIZE)
    run = Lived(tmp_path)
    for number in range(4):
        run.round(**({"a": number} if number % 2 else {"b": number, "a": 0}))
    run.round()  # a small one depends on a large one before it
    run.run.close()

    assert kept_in(tmp_path, "ab") == (5, {"a": 3, "b": 2})


def test_a_round_whose_states_were_not_proven_is_run_again(tmp_path, monkeypatch):
    run = Lived(tmp_path)
    run.round(a=1)
    monkeypatch.setattr(checkpoints, "_SMALL", SIZE)
    monkeypatch.setattr(checkpoints.Checkpoints, "_settle", lambda *_: None)  # killed before it
    run.round(a=2)

    found = Lived(tmp_path)

    assert found.sites.found(tmp_path, "a") == {"a": 1}
    assert "not proven when the run ended" in found.run.notes[0]


def test_the_record_says_which_sites_are_in_which_file(tmp_path):
    run = Lived(tmp_path)
    run.round(a=1, b=1)
    run.round()
    run.round(b=2)

    found = record.read(tmp_path / "record.jsonl", "")

    assert [whole.states for whole in found.rounds] == [
        {"states-000000.safetensors": ["a", "b"]}, {}, {"states-000001.safetensors": ["b"]},
    ]  # fmt: skip
    assert found.states == {"a": "states-000000.safetensors", "b": "states-000001.safetensors"}


def test_what_is_read_is_a_file_of_its_own_that_nobody_can_change(tmp_path):
    files = StateFiles(tmp_path)
    with TensorFile.write({"n": 7}) as state:
        files.write({"a": state})
        with files.read("a", tmp_path) as found:
            assert found.is_same_as(state)
            assert found.is_fixed
