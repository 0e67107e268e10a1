"""Where a run stands: what a checkpoint keeps, and that it is there whole or not at all."""

import pytest
import torch

from fedsag_cli import events, record
from fedsag_cli.errors import TensorError
from fedsag_cli.model import FLModel
from fedsag_cli.workflows.run import Best, Plateau, Run


def finished(round_num):
    return events.RoundFinished(round_num=round_num, sites=[], metrics={}, wait_s=0, aggregate_s=0, save_s=0)


def model(value):
    return FLModel(params={"z": torch.tensor([value]), "a": torch.tensor(3)})


def names(folder):
    """The checkpoints in a folder."""
    return sorted(path.name for path in folder.glob("*.safetensors"))


def again(folder, **how):
    return Run.resumed(folder, emit=lambda event: None, **how)


def test_a_run_without_a_checkpoint_is_a_new_one(tmp_path):
    found = Run.resumed(tmp_path, emit=print)

    assert (found.next_round, found.model, found.best) == (0, None, None)


def test_a_resumed_run_has_the_next_round_the_model_and_the_best_score(tmp_path):
    first = Run(emit=lambda event: None, checkpoints=tmp_path)
    first.save_best(Best(0.75, 2), model(0.5))
    first.finish_round(finished(4), model(1.5))

    found = Run.resumed(tmp_path, emit=print)

    assert (found.next_round, found.best) == (5, Best(0.75, 2))
    assert [(name, value.tolist()) for name, value in found.model.params.items()] == [("z", [1.5]), ("a", 3)]


def test_the_last_checkpoint_is_there_and_one_that_a_power_cut_leaves(tmp_path):
    here = Run(emit=lambda event: None, checkpoints=tmp_path)
    for round_num in range(7):
        here.finish_round(finished(round_num), model(float(round_num)))
        there = names(tmp_path)
        assert f"round-{round_num:06d}.safetensors" in there
        assert len(there) <= 3  # the third is being written to the disk

    here.close()

    assert names(tmp_path) == ["round-000006.safetensors"]


def test_a_checkpoint_goes_only_when_the_disk_has_the_next_one(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr("fedsag_cli.workflows.checkpoints.wait_for_disk", lambda path: done.append(("sync", path.name)))
    monkeypatch.setattr("fedsag_cli.workflows.checkpoints._SYNC_EVERY_S", 0.0)
    unlink = type(tmp_path).unlink
    monkeypatch.setattr(
        type(tmp_path), "unlink", lambda path, **how: (done.append(("gone", path.name)), unlink(path, **how))
    )
    here = Run(emit=lambda event: None, checkpoints=tmp_path)
    for round_num in range(2):
        here.finish_round(finished(round_num), model(float(round_num)))
    here.close()

    wanted = [("sync", "round-000001.safetensors"), ("sync", tmp_path.name), ("gone", "round-000000.safetensors")]
    assert [step for step in done if step in wanted][-3:] == wanted
    assert done.index(("gone", "round-000000.safetensors")) == len(done) - 1


def test_a_resumed_run_removes_the_checkpoint_it_came_from(tmp_path):
    Run(emit=lambda event: None, checkpoints=tmp_path).finish_round(finished(0), model(0.0))

    here = again(tmp_path)
    here.finish_round(finished(1), model(1.0))
    here.close()

    assert names(tmp_path) == ["round-000001.safetensors"]


def test_of_two_checkpoints_the_later_round_counts_not_the_later_name(tmp_path):
    first = Run(emit=lambda event: None, checkpoints=tmp_path)
    for round_num, place in ((999_999, 1.0), (1_000_000, 2.0)):
        first.finish_round(finished(round_num), model(place))

    found = again(tmp_path)

    assert found.next_round == 1_000_001
    assert found.model.params["z"].item() == 2.0


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("at", [0, 9, 100, -5], ids=["length", "header", "order", "tensor"])
def test_one_bit_of_the_only_checkpoint_is_found(tmp_path, at):
    first = Run(emit=lambda event: None, checkpoints=tmp_path)
    first.finish_round(finished(0), model(1.0))
    flip(tmp_path / "round-000000.safetensors", at)

    with pytest.raises(TensorError, match=r"round-000000.safetensors is no checkpoint of this run"):
        again(tmp_path)


def test_an_earlier_checkpoint_that_is_still_there_takes_the_place_of_a_damaged_one(tmp_path):
    first = Run(emit=lambda event: None, checkpoints=tmp_path)
    for round_num in range(3):
        first.finish_round(finished(round_num), model(float(round_num)))
    assert names(tmp_path) == ["round-000000.safetensors", "round-000002.safetensors"]
    flip(tmp_path / "round-000002.safetensors", -5)

    found = again(tmp_path)

    assert (found.next_round, found.whole_rounds, found.model.params["z"].item()) == (1, 1, 0.0)
    assert "2 of the rounds that were done are run again" in found.notes[0]
    assert "round-000002.safetensors is no checkpoint of this run" in found.notes[0]
    found.finish_round(finished(1), model(7.0))
    assert again(tmp_path).model.params["z"].item() == 7.0


@pytest.mark.parametrize("at", [3, 70, -3], ids=["digest", "round", "proof"])
def test_one_bit_of_the_record_is_found(tmp_path, at):
    Run(emit=lambda event: None, checkpoints=tmp_path).finish_round(finished(0), model(1.0))
    flip(tmp_path / "record.jsonl", at)

    with pytest.raises(TensorError, match=r"record.jsonl is damaged in line [12]"):
        again(tmp_path)


def test_a_line_of_the_record_that_was_not_written_to_its_end_costs_only_its_round(tmp_path):
    first = Run(emit=lambda event: None, checkpoints=tmp_path)
    first.finish_round(finished(0), model(0.0))
    size = (tmp_path / "record.jsonl").stat().st_size
    first.finish_round(finished(1), model(1.0))
    with (tmp_path / "record.jsonl").open("r+b") as file:
        file.truncate(size + 40)

    found = again(tmp_path)

    assert (found.next_round, found.notes) == (1, [])


def test_a_kill_within_the_record_of_the_first_round_leaves_a_run_that_begins_anew(tmp_path):
    Run(emit=lambda event: None, checkpoints=tmp_path).finish_round(finished(0), model(0.0))
    for size in (40, 0):  # and one between the checkpoint and its record
        with (tmp_path / "record.jsonl").open("r+b") as file:
            file.truncate(size)

        assert again(tmp_path).next_round == 0


def test_the_record_is_there_before_the_first_checkpoint(tmp_path, monkeypatch):
    def saved(path, *_):
        assert (tmp_path / "record.jsonl").exists()
        path.write_bytes(b"")

    monkeypatch.setattr("fedsag_cli.params.tensor_file.save", saved)
    Run(emit=lambda event: None, checkpoints=tmp_path).finish_round(finished(0), model(0.0))


def test_checkpoints_of_another_plan_are_not_continued(tmp_path):
    Run(emit=lambda event: None, checkpoints=tmp_path, identity="a plan").finish_round(finished(0), model(1.0))

    assert again(tmp_path, identity="a plan").next_round == 1
    with pytest.raises(TensorError, match="damaged in line 1"):
        again(tmp_path, identity="another plan")


def test_a_record_that_is_gone_is_no_new_run(tmp_path):
    Run(emit=lambda event: None, checkpoints=tmp_path).finish_round(finished(0), model(1.0))
    (tmp_path / "record.jsonl").unlink()

    with pytest.raises(TensorError, match=r"record.jsonl is gone: nothing proves round-000000"):
        again(tmp_path)


def test_a_checkpoint_that_is_gone_is_named(tmp_path):
    Run(emit=lambda event: None, checkpoints=tmp_path).finish_round(finished(0), model(1.0))
    (tmp_path / "round-000000.safetensors").unlink()

    with pytest.raises(TensorError, match=r"the checkpoint .*round-000000.safetensors is gone"):
        again(tmp_path)


def test_a_large_model_is_proven_while_the_next_round_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("fedsag_cli.workflows.checkpoints._SMALL", 0)
    first = Run(emit=lambda event: None, checkpoints=tmp_path)
    first.save_best(Best(0.5, 0), model(0.5))
    for round_num in range(3):
        first.finish_round(finished(round_num), model(float(round_num)))
    first.close()

    found = again(tmp_path)

    assert (found.next_round, found.model.params["z"].item()) == (3, 2.0)
    assert found.best_model.params["z"].item() == 0.5


def test_a_round_whose_checkpoint_was_not_proven_yet_is_run_again(tmp_path, monkeypatch):
    first = Run(emit=lambda event: None, checkpoints=tmp_path)
    first.finish_round(finished(0), model(0.0))
    monkeypatch.setattr("fedsag_cli.workflows.checkpoints._SMALL", 0)
    monkeypatch.setattr("fedsag_cli.workflows.checkpoints.Checkpoints._settle", lambda *_: None)  # killed before it
    first.finish_round(finished(1), model(1.0))

    found = again(tmp_path)

    assert (found.next_round, found.model.params["z"].item()) == (1, 0.0)
    assert found.notes == [
        "1 of the rounds that were done are run again: their checkpoints were not proven when the run ended"
    ]


def test_what_the_server_told_of_a_round_is_in_the_record_with_it(tmp_path):
    here = Run(emit=lambda event: None, checkpoints=tmp_path)
    here.on(events.RoundStarted(round_num=0, first_round=0, num_rounds=2, sites=["a"]))
    here.on(events.ClientReady(site="a"))
    here.on(events.ModelSent(task="train", round_num=0, size=1))
    here.finish_round(finished(0), model(0.0))
    here.on(events.RoundStarted(round_num=1, first_round=0, num_rounds=2, sites=["a"]))

    (whole,) = record.read(tmp_path / "record.jsonl", "").rounds

    told = [events.from_line(bytes(raw)) for raw in whole.events]
    assert [type(event) for event in told] == [events.RoundStarted, events.ModelSent, events.RoundFinished]


def test_a_run_that_keeps_what_no_checkpoint_has_says_so_once_and_records_it(tmp_path):
    told = []
    here = Run(emit=told.append, checkpoints=tmp_path, keeps=lambda: ["aggregator (mom.Momentum): v"])
    for round_num in range(2):
        here.finish_round(finished(round_num), model(0.0))

    (notice,) = [event.text for event in told if isinstance(event, events.Notice)]
    assert notice.startswith("this run cannot be resumed")
    assert [whole.keeps for whole in record.read(tmp_path / "record.jsonl", "").rounds] == [
        ["aggregator (mom.Momentum): v"]
    ] * 2


def test_a_checkpoint_that_could_not_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    told = []
    here = Run(emit=told.append, checkpoints=tmp_path)
    here.finish_round(finished(0), model(1.0))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fedsag_cli.params.layout._write_all", full)
    with pytest.raises(OSError, match="No space"):
        here.finish_round(finished(1), model(2.0))

    assert names(tmp_path) == ["round-000000.safetensors"]
    assert again(tmp_path).model.params["z"].item() == 1.0
    assert told == [told[0]]


def test_a_round_is_told_when_its_checkpoint_is_there(tmp_path):
    there = []
    here = Run(emit=lambda event: there.append(names(tmp_path)), checkpoints=tmp_path)

    here.finish_round(finished(0), model(1.0))

    assert there == [["round-000000.safetensors"]]


def test_without_a_folder_nothing_is_written_and_all_is_told():
    told = []
    here = Run(emit=told.append)
    here.save_best(Best(0.5, 0, "accuracy"), model(0.0))
    here.finish_round(finished(0), model(1.0))

    assert [type(event) for event in told] == [events.BestModel, events.RoundFinished]
    assert (told[0].round_num, told[0].metric, told[0].score) == (0, "accuracy", 0.5)
    assert here.next_round == 1


def test_a_broken_checkpoint_is_an_error_and_not_a_new_run(tmp_path):
    (tmp_path / "round-000003.safetensors").write_bytes(b"garbage!")

    with pytest.raises(TensorError):
        Run.resumed(tmp_path, emit=print)


def test_the_best_model_is_kept_until_it_has_a_file_of_its_own(tmp_path):
    """Its file is written while the next round runs: whoever goes on after a kill writes it again."""
    first = Run(emit=lambda event: None, checkpoints=tmp_path)
    first.finish_round(finished(0), model(0.0))
    first.save_best(Best(0.5, 1), model(0.0))
    first.finish_round(finished(1), model(1.0))
    first.finish_round(finished(2), model(2.0))

    found = Run.resumed(tmp_path, emit=print)

    assert found.best == Best(0.5, 1)
    assert found.best_model.params["z"].item() == 0.0
    assert found.model.params["z"].item() == 2.0
    found.save_best(Best(0.75, 3), model(2.0))
    found.finish_round(finished(3), model(3.0))
    assert {"best-000003.safetensors", "round-000003.safetensors"} <= set(names(tmp_path))
    found.finished()
    assert names(tmp_path) == ["round-000003.safetensors"]


def test_a_best_model_that_no_checkpoint_has_is_kept_too(tmp_path):
    first = Run(emit=lambda event: None, checkpoints=tmp_path)
    first.save_best(Best(0.5, 7), model(0.25))
    first.finish_round(finished(7), model(1.0))

    assert Run.resumed(tmp_path, emit=print).best_model.params["z"].item() == 0.25


def test_a_best_score_of_a_round_that_was_not_whole_is_forgotten(tmp_path):
    first = Run(emit=lambda event: None, checkpoints=tmp_path)
    first.finish_round(finished(0), model(0.0))
    first.save_best(Best(0.5, 1), model(0.0))

    found = Run.resumed(tmp_path, emit=print)

    assert (found.best, found.best_model) == (None, None)


def test_a_best_model_that_was_changed_in_place_since_its_checkpoint_is_kept_as_it_is_given(tmp_path):
    """Before, the checkpoint was kept, which had other values."""
    first = Run(emit=lambda event: None, checkpoints=tmp_path)
    given = model(0.0)
    first.finish_round(finished(0), given)
    given.params["z"][0] = 9.0
    first.save_best(Best(0.5, 1), given)
    first.finish_round(finished(1), model(1.0))

    assert Run.resumed(tmp_path, emit=print).best_model.params["z"].item() == 9.0


def test_without_links_the_best_model_is_copied(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("os.link", refuse)
    first = Run(emit=lambda event: None, checkpoints=tmp_path)
    first.finish_round(finished(0), model(0.0))
    first.save_best(Best(0.5, 1), model(0.0))
    first.finish_round(finished(1), model(1.0))

    assert Run.resumed(tmp_path, emit=print).best_model.params["z"].item() == 0.0


def test_a_plateau_is_remembered_in_its_workflow_and_not_in_the_next(tmp_path):
    first = Run(emit=lambda event: None, checkpoints=tmp_path)
    first.plateau = Plateau(best=0.5, rounds=2)
    first.finish_round(finished(0), model(0.0))

    found = Run.resumed(tmp_path, emit=print)
    assert found.plateau == Plateau(best=0.5, rounds=2)
    found.enter(1)
    assert found.plateau is None


def test_a_run_of_two_workflows_goes_on_in_the_one_it_was_in(tmp_path):
    """Whose rounds begin at 0 again."""
    first = Run(emit=lambda event: None, checkpoints=tmp_path)
    assert first.enter(0)
    for round_num in range(5):
        first.finish_round(finished(round_num), model(float(round_num)))
    assert first.enter(1)
    first.finish_round(finished(0), model(7.0))

    found = Run.resumed(tmp_path, emit=print)

    assert not found.enter(0)
    assert found.enter(1)
    assert (found.next_round, found.whole_rounds, found.model.params["z"].item()) == (1, 6, 7.0)


def test_what_the_server_draws_in_a_round_depends_on_the_seed_and_the_round_alone():
    drawn = []
    for before in (0, 100):
        torch.rand(before)
        here = Run(emit=lambda event: None, seed=7)
        here.begin_round(3)
        drawn.append(torch.rand(1).item())
    Run(emit=lambda event: None, seed=8).begin_round(3)

    assert drawn[0] == drawn[1] != torch.rand(1).item()


def test_a_best_model_of_an_earlier_workflow_is_not_written_by_a_later_one(tmp_path):
    first = Run(emit=lambda event: None, checkpoints=tmp_path)
    first.finish_round(finished(0), model(0.0))
    first.save_best(Best(0.5, 1, "accuracy", is_final=True), model(0.0))
    first.enter(1)
    first.finish_round(finished(0), model(1.0))

    found = Run.resumed(tmp_path, emit=print)

    assert found.best_model is None
    assert found.as_event().best.is_final


def test_a_models_meta_goes_on_too_with_its_tensors(tmp_path):
    """In the record bytes would be a text, and infinity null."""
    meta = {"lr": 0.5, "limit": float("inf"), "tree": b"\xff", "c": {"w": torch.tensor([2.0])}}
    Run(emit=lambda event: None, checkpoints=tmp_path).finish_round(
        finished(0), FLModel(params={"z": torch.tensor([1.0])}, meta=meta)
    )

    assert Run.resumed(tmp_path, emit=print).model.meta == meta


def test_a_meta_that_cannot_be_kept_is_named_and_the_round_is_not_whole(tmp_path):
    model = FLModel(params={"z": torch.tensor([1.0])}, meta={"a": [{1}]})

    with pytest.raises(TensorError, match=r"meta\['a'\]\[0\] is a set"):
        Run(emit=lambda event: None, checkpoints=tmp_path).finish_round(finished(0), model)
    assert Run.resumed(tmp_path, emit=print).model is None


def test_a_best_model_that_is_not_the_one_of_the_last_checkpoint_is_saved_itself(tmp_path):
    run = Run(emit=lambda event: None, checkpoints=tmp_path)
    run.finish_round(finished(0), model(1.0))
    run.save_best(Best(0.5, 1, "accuracy"), model(7.0))
    run.finish_round(finished(1), model(2.0))

    assert Run.resumed(tmp_path, emit=print).best_model.params["z"].item() == 7.0


def test_a_run_whose_workflows_finished_no_round_says_so():
    told = []

    Run(emit=told.append).finished()

    assert [event.text for event in told] == ["no workflow finished a round: there is no trained model"]
