"""Where a run stands: what a checkpoint keeps, and that it is there whole or not at all."""

import pytest
import torch

from fedsag_cli import events
from fedsag_cli.errors import TensorError
from fedsag_cli.model import FLModel
from fedsag_cli.workflows.run import Best, Plateau, Run


def finished(round_num):
    return events.RoundFinished(round_num=round_num, sites=[], metrics={}, wait_s=0, aggregate_s=0, save_s=0)


def model(value):
    return FLModel(params={"z": torch.tensor([value]), "a": torch.tensor(3)})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


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


def test_there_is_one_checkpoint_at_a_time_under_a_new_name_each_round(tmp_path):
    here = Run(emit=lambda event: None, checkpoints=tmp_path)
    seen = []
    for round_num in range(3):
        here.finish_round(finished(round_num), model(float(round_num)))
        seen.append(names(tmp_path))

    assert seen == [[f"round-{round_num:06d}.safetensors"] for round_num in range(3)]


def test_a_resumed_run_removes_the_checkpoint_it_came_from(tmp_path):
    Run(emit=lambda event: None, checkpoints=tmp_path).finish_round(finished(0), model(0.0))

    Run.resumed(tmp_path, emit=lambda event: None).finish_round(finished(1), model(1.0))

    assert names(tmp_path) == ["round-000001.safetensors"]


def test_of_two_checkpoints_the_later_round_counts_not_the_later_name(tmp_path):
    """The run was killed between writing one and removing the other."""
    for round_num, place in ((999_999, 1.0), (1_000_000, 2.0)):
        Run(emit=lambda event: None, checkpoints=tmp_path).finish_round(finished(round_num), model(place))

    found = Run.resumed(tmp_path, emit=print)

    assert found.next_round == 1_000_001
    assert names(tmp_path) == ["round-1000000.safetensors"]
    assert found.model.params["z"].item() == 2.0


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
    assert Run.resumed(tmp_path, emit=print).model.params["z"].item() == 1.0
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
    assert names(tmp_path) == ["best-000003.safetensors", "round-000003.safetensors"]
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
    (tmp_path / "kept").hardlink_to(tmp_path / "round-000004.safetensors")
    assert first.enter(1)
    first.finish_round(finished(0), model(7.0))
    (tmp_path / "kept").rename(tmp_path / "round-000004.safetensors")  # killed before it could be removed

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


def test_a_models_meta_goes_on_too(tmp_path):
    params = {"z": torch.tensor([1.0])}
    Run(emit=lambda event: None, checkpoints=tmp_path).finish_round(
        finished(0), FLModel(params=params, meta={"lr": 0.5})
    )

    assert Run.resumed(tmp_path, emit=print).model.meta == {"lr": 0.5}


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
