"""The checkpoints of earlier rounds: as many as the run wants stay, each with all that its round needs."""

import numpy as np
import pytest
from fakes import open_descriptors

from fedsag_cli import events, record
from fedsag_cli.model import FLModel
from fedsag_cli.params.tensor_file import TensorFile
from fedsag_cli.plan import ALL
from fedsag_cli.workflows import run as run_module
from fedsag_cli.workflows.run import Best, Run


class Kept:
    """What sites keep, as the server has it: what `changes` says changes with the next round."""

    def __init__(self):
        self.files = None
        self.changes = {}

    def changed(self):
        return self.changes

    def saved(self):
        for file in self.changes.values():
            file.close()
        self.changes = {}


def begun(folder, keep, **how):
    return Run.resumed(folder, how.pop("emit", lambda event: None), keep_checkpoints=keep, **how)


def do(run, *rounds, best=()):
    for number in rounds:
        if number in best:
            run.save_best(Best(float(number), number), model(-number))
        told = events.RoundFinished(round_num=number, sites=[], metrics={}, wait_s=0, aggregate_s=0, save_s=0)
        run.finish_round(told, model(number))


def model(value):
    return FLModel(params={"w": np.array([float(value)])})


def rounds_in(folder, kind="round"):
    return [int(path.stem.rpartition("-")[2]) for path in sorted(folder.glob(f"{kind}-*.safetensors"))]


@pytest.mark.parametrize(("keep", "left"), [(1, [6]), (2, [5, 6]), (20, list(range(7))), (ALL, list(range(7)))])
def test_the_checkpoints_of_so_many_last_rounds_stay_to_the_end(tmp_path, keep, left):
    run = begun(tmp_path, keep)
    do(run, *range(7))
    run.finished("digest")

    assert rounds_in(tmp_path) == left


def test_a_best_model_goes_with_the_last_round_that_needs_it(tmp_path):
    run = begun(tmp_path, 2)
    do(run, 0, 1, 2, best=[1, 2])
    run.close()
    assert (rounds_in(tmp_path), rounds_in(tmp_path, "best")) == ([1, 2], [1, 2])

    run = begun(tmp_path, 2)
    do(run, 3)
    run.finished("digest")

    assert (rounds_in(tmp_path), rounds_in(tmp_path, "best")) == ([2, 3], [2])


def test_the_record_names_the_best_model_of_each_round(tmp_path):
    run = begun(tmp_path, ALL)
    do(run, 0, 1, 2, best=[1])
    run.close()

    found = record.read(tmp_path / "record.jsonl", "")

    best = "best-000001.safetensors"
    assert [whole.best for whole in found.rounds] == ["", best, best]
    assert [place.files - place.needs for place in found.places] == [set(), {best}, {best}]


def test_a_file_with_states_stays_as_long_as_a_round_that_is_kept_needs_it(tmp_path):
    before, kept = open_descriptors(), Kept()
    run = begun(tmp_path, 2)
    run.keep_states(kept)
    for number, sites in enumerate(["ab", "a", "b", ""]):
        kept.changes = {site: TensorFile.write({"n": number}) for site in sites}
        do(run, number)
    run.close()

    found = record.read(tmp_path / "record.jsonl", "")

    # round 0 writes the file 0, round 1 the file 1 with a, round 2 the file 2 with b: nobody needs the file 0 any more
    needed = [sorted(name for name in place.needs if name.startswith("states")) for place in found.places]
    names = [f"states-{number:06d}.safetensors" for number in range(3)]
    assert needed == [names[:1], names[:2], names[1:], names[1:]]
    assert rounds_in(tmp_path, "states") == [1, 2]
    assert open_descriptors() == before


@pytest.mark.parametrize(("keep", "left"), [(1, [4]), (3, [2, 3, 4]), (ALL, [1, 2, 3, 4])])
def test_a_resumed_run_keeps_those_of_its_earlier_part_too(tmp_path, keep, left):
    run = begun(tmp_path, 3)
    do(run, *range(4))
    run.close()

    run = begun(tmp_path, keep)
    do(run, 4)
    run.close()

    assert rounds_in(tmp_path) == left


def test_what_much_will_take_is_told_once(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "_MUCH", 1000)
    told = []
    run = begun(tmp_path, ALL, emit=told.append)
    run.on(events.RoundStarted(round_num=0, first_round=0, num_rounds=50, sites=[]))
    do(run, 0, 1)

    (notice,) = [event.text for event in told if isinstance(event, events.Notice)]
    assert f"50 of them, as --keep-checkpoints says, take 0.0 GB in {tmp_path}" in notice
