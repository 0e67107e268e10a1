"""Lightning's trainers as clients: against a server that says what the test tells it to, and in whole runs."""

import functools
import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from runs import fedsag, run, torch_job

import fedsag_cli.client as plain_flare
import fedsag_cli.client.lightning as flare
from fedsag_cli.errors import ClientError
from fedsag_cli.model import NUM_STEPS
from fedsag_cli.wire.messages import ADDRESS, SITE, LogValues

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # Lightning's advice
    pytest.mark.usefixtures("one_thread"),
]

PACKAGES = ["lightning.pytorch", "pytorch_lightning"]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def fresh_lightning(fresh_process, monkeypatch, tmp_path):
    """And in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(flare, "_ranks", {})
    monkeypatch.setenv("FEDSAG_TASK_KIND", "")  # so that what is set meanwhile goes
    monkeypatch.delenv("FEDSAG_TASK_KIND")


@pytest.fixture
def server(serving):
    return serving()


@pytest.fixture(params=PACKAGES)
def pl(request):
    return pytest.importorskip(request.param)


@pytest.fixture
def lightning():
    return importlib.import_module("lightning.pytorch")


def line(pl, *, momentum=0.5, scheduled=False):
    """A module of one weight and one buffer, whose gradient is the batch: every step can be done by hand."""

    class Line(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.tensor([7.0]))
            self.register_buffer("seen", torch.tensor(0))

        def training_step(self, batch, batch_idx):
            self.seen += 1
            self.log("train_loss", 0.0)
            return (self.w * batch).mean()

        def validation_step(self, batch, batch_idx):
            self.log("val", self.w.mean() * batch.mean(), on_step=True, on_epoch=True)

        test_step = validation_step

        def predict_step(self, batch, batch_idx):
            return self.w * batch

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.5, momentum=momentum)
            if not scheduled:
                return optimizer
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]

    return Line()


def batches(*values):
    """One batch of one number each."""
    return torch.utils.data.DataLoader(torch.tensor(values).reshape(-1, 1), batch_size=1)


def make_trainer(pl, **given):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return pl.Trainer(**{"max_epochs": 1, "devices": 1} | quiet | given)


def weights(w, seen=0):
    return {"w": torch.tensor([w]), "seen": torch.tensor(seen)}


def test_the_public_surface_is_this():
    assert sorted(flare.__all__) == [
        "APIContext", "AnalyticsDataType", "ClientLogger", "FLCallback", "FLModel", "ParamsType", "get_config",
        "get_job_id", "get_site_name", "init", "is_evaluate", "is_running", "is_submit_model", "is_train", "log",
        "partition", "patch", "receive", "send", "shutdown", "site", "system_info",
    ]  # fmt: skip


def test_importing_it_imports_neither_package_nor_torch():
    said = subprocess.run(
        [sys.executable, "-c", "import sys, fedsag_cli.client.lightning; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert {"torch", "lightning", "pytorch_lightning"}.isdisjoint(said.stdout.split())


def test_two_rounds_train_what_is_done_by_hand_and_the_momentum_goes_on(pl, server):
    trainer, module = make_trainer(pl), line(pl)
    flare.patch(trainer)

    server.give(weights(10.0, seen=3), round_num=0)
    assert flare.is_running()
    assert flare.receive().current_round == 0
    trainer.validate(module, batches(2.0, 4.0), verbose=False)
    trainer.fit(module, batches(1.0, 1.0), batches(1.0))
    first = server.answer()

    assert first.params["w"].tolist() == [10.0 - 0.5 * (1.0 + 1.5)]
    assert first.params["seen"].item() == 5
    assert first.metrics == {"val": 30.0, "val_epoch": 30.0}
    assert first.meta == {NUM_STEPS: 2}

    server.give(weights(20.0), round_num=1)
    assert flare.is_running()
    trainer.validate(module, batches(3.0), verbose=False)
    trainer.fit(module, batches(1.0, 1.0), batches(1.0))
    second = server.answer()

    assert second.params["w"].tolist() == [20.0 - 0.5 * (1.75 + 1.875)]
    assert second.metrics == {"val": 60.0, "val_epoch": 60.0}
    assert second.meta == {NUM_STEPS: 2}
    assert (trainer.current_epoch, trainer.global_step) == (2, 4)
    server.end()
    assert not flare.is_running()


def test_without_restore_state_every_round_has_new_optimizers(lightning, server):
    trainer, module = make_trainer(lightning), line(lightning)
    flare.patch(trainer, restore_state=False)

    for _ in range(2):
        server.give(weights(10.0))
        trainer.fit(module, batches(1.0, 1.0))
        assert server.answer().params["w"].tolist() == [8.75]


def test_a_learning_rate_scheduler_goes_on_from_round_to_round(pl, server):
    trainer, module = make_trainer(pl), line(pl, momentum=0.0, scheduled=True)
    flare.patch(trainer)
    ends = []

    for _ in range(3):
        server.give(weights(10.0))
        trainer.fit(module, batches(1.0))
        ends.append(server.answer().params["w"].item())

    assert ends == [9.5, 9.75, 9.875]


def test_optimizers_that_are_others_now_are_an_error_that_says_what_to_do(lightning, server):
    trainer = make_trainer(lightning)
    flare.patch(trainer)
    server.give(weights(10.0))
    trainer.fit(line(lightning), batches(1.0))
    server.answer()

    server.give(weights(10.0))
    with pytest.raises(ClientError, match=r"cannot continue .* their number has changed .*restore_state=False"):
        trainer.fit(line(lightning, scheduled=True), batches(1.0))


def test_where_the_server_sends_fedproxs_coefficient_its_gradient_is_added(pl, server):
    """mu 0.5: 4 - 0.5 * 1 = 3.5; 3.5 - 0.5 * (2 + 0.5 * (3.5 - 4)) = 2.625. The next round has none."""
    trainer, module = make_trainer(pl), line(pl, momentum=0.0)
    flare.patch(trainer)

    server.give(weights(4.0), meta={"fedprox_mu": 0.5})
    trainer.fit(module, batches(1.0, 2.0))
    near = server.answer().params["w"].tolist()
    server.give(weights(4.0), round_num=1)
    trainer.fit(module, batches(1.0, 2.0))

    assert near == [2.625]
    assert server.answer().params["w"].tolist() == [2.5]


def test_a_coefficient_that_is_none_is_an_error_and_zero_is_no_term(lightning, server):
    trainer, module = make_trainer(lightning), line(lightning, momentum=0.0)
    flare.patch(trainer)

    server.give(weights(4.0), meta={"fedprox_mu": 0})
    trainer.fit(module, batches(1.0, 2.0))
    assert server.answer().params["w"].tolist() == [2.5]
    server.give(weights(4.0), round_num=1, meta={"fedprox_mu": -1.0})
    with pytest.raises(ValueError, match="needs a number above 0"):
        trainer.fit(module, batches(1.0, 2.0))


def test_where_the_server_sends_scaffolds_control_variate_each_step_is_corrected(pl, server):
    """c = 3, c_i = 0: 4 - 0.5 * (1 + 3) - 0.5 * (2 + 3) = -0.5, and c_i+ = 0 - 3 + (4 + 0.5) / (2 * 0.5) = 1.5.

    Then c = 1: 4 - 0.5 * (1 + 1 - 1.5) - 0.5 * (2 + 1 - 1.5) = 3, and c_i+ is the mean of the gradients again.
    """
    trainer, module = make_trainer(pl), line(pl, momentum=0.0)
    flare.patch(trainer)

    server.give(weights(4.0), meta={"scaffold_c_global": {"w": torch.tensor([3.0]), "seen": torch.tensor(0)}})
    trainer.fit(module, batches(1.0, 2.0))
    first = server.answer()
    server.give(weights(4.0), round_num=1, meta={"scaffold_c_global": {"w": torch.tensor([1.0])}})
    trainer.fit(module, batches(1.0, 2.0))
    second = server.answer()

    assert first.params["w"].tolist() == [-0.5]
    assert first.meta["scaffold_c_diff"]["w"].tolist() == [1.5]
    assert second.params["w"].tolist() == [3.0]
    assert second.meta["scaffold_c_diff"]["w"].tolist() == [0.0]


def test_fit_without_validate_sends_params_and_no_metrics(pl, server):
    trainer = make_trainer(pl)
    flare.patch(trainer)
    server.give(weights(10.0))

    trainer.fit(line(pl), batches(1.0), batches(1.0))

    assert server.answer().metrics is None


def test_an_evaluation_is_answered_by_validate_and_the_fit_after_it_trains_nothing(pl, server):
    trainer, module = make_trainer(pl), line(pl)
    flare.patch(trainer)
    server.give(weights(10.0))
    assert flare.is_running()
    trainer.fit(module, batches(1.0), batches(1.0))
    server.answer()

    server.give(weights(20.0), name="validate")
    assert flare.is_running()
    assert flare.is_evaluate()
    trainer.validate(module, batches(2.0), verbose=False)
    answer = server.answer()
    trainer.fit(module, batches(1.0))
    trainer.test(ckpt_path="best", dataloaders=batches(1.0), verbose=False)

    assert answer.params is None
    assert answer.metrics == {"val": 40.0, "val_epoch": 40.0}
    assert (trainer.current_epoch, trainer.global_step) == (1, 1)

    server.give(weights(10.0))
    assert flare.is_running()
    assert flare.is_train()
    trainer.fit(module, batches(1.0))
    assert server.answer().params["w"].tolist() == [10.0 - 0.5 * 1.5]
    assert trainer.current_epoch == 2


def test_an_evaluation_is_not_answered_by_fit(lightning, server):
    trainer = make_trainer(lightning)
    flare.patch(trainer)
    server.give(weights(10.0), name="validate")

    with pytest.raises(ClientError, match=r"asks for metrics.*call trainer\.validate\(\) first"):
        trainer.fit(line(lightning), batches(1.0))


def test_in_a_loop_by_is_running_a_validate_after_fit_measures_what_was_trained(pl, server):
    trainer, module = make_trainer(pl), line(pl)
    flare.patch(trainer)
    server.give(weights(10.0))
    assert flare.is_running()
    trainer.fit(module, batches(1.0))
    server.answer()
    server.give(weights(20.0))

    [local] = trainer.validate(module, batches(1.0), verbose=False)

    assert local["val_epoch"] == 9.5
    assert flare.is_running()
    [received] = trainer.validate(module, batches(1.0), verbose=False)
    assert received["val_epoch"] == 20.0


def test_a_script_that_loops_without_is_running_gets_the_next_task_with_the_next_call(pl, server):
    trainer, module = make_trainer(pl), line(pl, momentum=0.0)
    flare.patch(trainer)

    for w in (10.0, 20.0):
        server.give(weights(w))
        trainer.validate(module, batches(1.0), verbose=False)
        trainer.fit(module, batches(1.0))
        answer = server.answer()
        assert answer.metrics["val"] == w
        assert answer.params["w"].tolist() == [w - 0.5]


def test_a_loop_that_never_trains_is_an_error_and_no_endless_loop(lightning, server):
    trainer, module = make_trainer(lightning), line(lightning)
    flare.patch(trainer)
    server.give(weights(10.0))
    assert flare.is_running()
    trainer.validate(module, batches(1.0), verbose=False)

    assert flare.is_running()
    with pytest.raises(ClientError, match="started again"):
        trainer.validate(module, batches(1.0), verbose=False)


def test_a_second_fit_for_one_task_is_an_error(lightning, server):
    trainer, module = make_trainer(lightning), line(lightning)
    flare.patch(trainer)
    server.give(weights(10.0))
    assert flare.is_running()
    trainer.fit(module, batches(1.0))

    with pytest.raises(ClientError, match="a second time for one task"):
        trainer.fit(module, batches(1.0))


def test_when_fit_raised_the_task_is_still_in_hand(lightning, server):
    trainer, module = make_trainer(lightning, max_epochs=2), line(lightning, momentum=0.0)
    flare.patch(trainer)
    server.give(weights(10.0))
    assert flare.is_running()
    trainer.validate(module, batches(1.0), verbose=False)

    with pytest.raises(TypeError):
        trainer.fit(module, [torch.ones(1, 1), None])
    trainer.fit(module, batches(1.0))
    answer = server.answer()

    assert answer.params["w"].tolist() == [9.0]
    assert answer.metrics["val"] == 10.0
    assert answer.meta == {NUM_STEPS: 2}


def test_after_the_run_fit_trains_for_the_script_alone_and_says_so(lightning, server, caplog):
    trainer, module = make_trainer(lightning), line(lightning, momentum=0.0)
    flare.patch(trainer)
    server.give(weights(10.0))
    assert flare.is_running()
    trainer.fit(module, batches(1.0))
    server.answer()
    server.end()
    assert not flare.is_running()

    trainer.fit(module, batches(1.0))

    assert module.w.tolist() == [9.0]
    assert "the run is over: the trained model is not sent" in caplog.text


def test_every_round_trains_max_steps_where_that_is_the_limit(pl, server):
    trainer, module = make_trainer(pl, max_epochs=-1, max_steps=3), line(pl, momentum=0.0)
    flare.patch(trainer)

    for _ in range(3):
        server.give(weights(10.0))
        trainer.fit(module, batches(1.0, 1.0))
        answer = server.answer()
        assert answer.params["w"].tolist() == [8.5]
        assert answer.meta == {NUM_STEPS: 3}


def test_a_round_that_stopped_early_leaves_the_next_one_whole(lightning, server):
    class Stops(lightning.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.should_stop = trainer.current_epoch == 0

    trainer, module = make_trainer(lightning, max_epochs=3, callbacks=[Stops()]), line(lightning, momentum=0.0)
    flare.patch(trainer)
    steps = []

    for _ in range(2):
        server.give(weights(10.0))
        trainer.fit(module, batches(1.0))
        steps.append(server.answer().meta[NUM_STEPS])

    assert steps == [1, 3]


def test_without_update_fit_loop_the_limit_is_the_scripts_own(lightning, server):
    trainer, module = make_trainer(lightning), line(lightning, momentum=0.0)
    flare.patch(trainer, update_fit_loop=False)
    steps = []

    for more in (0, 0, 2):
        trainer.fit_loop.max_epochs += more
        server.give(weights(10.0))
        trainer.fit(module, batches(1.0))
        steps.append(server.answer().meta[NUM_STEPS])

    assert steps == [1, 0, 2]


def test_the_best_checkpoint_is_there_after_every_round(pl, server):
    best = pl.callbacks.ModelCheckpoint(monitor="val", mode="min")
    trainer, module = make_trainer(pl, callbacks=[best]), line(pl, momentum=0.0)
    flare.patch(trainer)

    for w, lowest in ((10.0, 9.5), (5.0, 4.5), (30.0, 4.5)):
        server.give(weights(w))
        assert flare.is_running()
        trainer.validate(module, batches(1.0), verbose=False)
        trainer.fit(module, batches(1.0), batches(1.0))
        assert server.answer().params["w"].tolist() == [w - 0.5]
        [tested] = trainer.test(ckpt_path="best", dataloaders=batches(1.0), verbose=False)
        [predicted] = trainer.predict(ckpt_path="best", dataloaders=batches(2.0))
        assert tested["val_epoch"] == lowest
        assert predicted.item() == 2 * lowest


def test_validate_without_a_module_measures_the_received_model_not_the_best_checkpoint(lightning, server):
    trainer, module = make_trainer(lightning), line(lightning)
    flare.patch(trainer)
    server.give(weights(10.0))
    assert flare.is_running()
    trainer.fit(module, batches(1.0))
    server.answer()
    server.give(weights(20.0))
    assert flare.is_running()

    [measured] = trainer.validate(dataloaders=batches(1.0), verbose=False)

    assert measured["val_epoch"] == 20.0


def test_patching_twice_patches_once(pl, server):
    trainer = make_trainer(pl)
    flare.patch(trainer)
    flare.patch(trainer)

    [ours] = [each for each in trainer.callbacks if isinstance(each, flare.FLCallback)]

    assert isinstance(ours, pl.Callback)


def test_the_scripts_own_init_is_the_one_patch_uses(lightning, server, caplog):
    context = flare.init()

    flare.patch(make_trainer(lightning))

    assert plain_flare._last == [context]
    assert [record for record in caplog.records if record.name == "fedsag"] == []


def test_what_is_no_trainer_cannot_be_patched():
    with pytest.raises(TypeError, match=r"takes a Trainer of lightning\.pytorch or pytorch_lightning, not a dict"):
        flare.patch({})


def test_a_strategy_that_starts_processes_anew_cannot_take_part(lightning):
    trainer = make_trainer(lightning, strategy="ddp_spawn")

    with pytest.raises(ClientError, match=r'DDPStrategy starts new processes.*strategy="ddp"'):
        flare.patch(trainer)


def test_a_strategy_that_divides_the_model_cannot_take_part(lightning):
    trainer = make_trainer(lightning)
    trainer.strategy.__class__ = type("FSDPStrategy", (lightning.strategies.SingleDeviceStrategy,), {})  # it wants GPUs

    with pytest.raises(ClientError, match=r'FSDPStrategy splits a model over several processes.*strategy="ddp"'):
        flare.patch(trainer)


def test_without_a_run_a_patched_trainer_trains_once_from_the_weights_of_its_module(lightning, tmp_path):
    trainer, module, loops = make_trainer(lightning), line(lightning), 0

    flare.patch(trainer)
    while flare.is_running():
        loops += 1
        trainer.fit(module, batches(1.0))

    assert loops == 1
    sent = torch.load(tmp_path / "fedsag_local" / "model.pt", weights_only=True)
    assert sent["w"].tolist() == [7.0 - 0.5 * 1.0]


def test_before_patch_a_question_says_what_to_do_first():
    with pytest.raises(ClientError, match="called before flare"):
        flare.is_running()


@pytest.mark.parametrize(
    ("params", "said"),
    [
        (
            {"model.w": [1.0], "model.seen": 0},
            r"has no 'w', 'seen'.*in the received model the names begin with 'model\.'",
        ),
        ({"w": [1.0, 2.0], "seen": 0}, r"'w' has shape \[2\] in it and \[1\] in Line"),
        ({"w": [1.0]}, r"it has no 'seen'; |it has no 'seen' \("),
        (
            {"w": [1.0], "seem": 0},
            r"has 'seem', which Line does not have .is 'seem' of the received model the same as 'seen' of Line\?",
        ),
    ],
)
def test_a_model_that_does_not_fit_is_an_error_naming_the_keys_and_what_may_be_meant(lightning, server, params, said):
    trainer = make_trainer(lightning)
    flare.patch(trainer)
    server.give({name: torch.tensor(value) for name, value in params.items()})

    with pytest.raises(ClientError, match=f"the received model does not fit Line: .*({said})"):
        trainer.fit(line(lightning), batches(1.0))


def test_a_server_that_has_what_is_inside_the_module_is_told_which_class_to_name(lightning, server):
    class LitLine(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = line(lightning)

        training_step = validation_step = lambda self, batch, batch_idx: None
        configure_optimizers = lambda self: None  # noqa: E731

    trainer = make_trainer(lightning)
    flare.patch(trainer)
    server.give(weights(1.0))

    with pytest.raises(
        ClientError, match=r"in LitLine the names begin with 'model\.': set the job's model_class_path to LitLine"
    ):
        trainer.validate(LitLine(), batches(1.0), verbose=False)


def test_where_strict_is_off_only_the_keys_of_both_travel(lightning, server):
    trainer, module = make_trainer(lightning), line(lightning, momentum=0.0)
    flare.patch(trainer, load_state_dict_strict=False)
    server.give({"w": torch.tensor([10.0]), "head": torch.tensor([1.0])})

    trainer.fit(module, batches(1.0))

    answer = server.answer()
    assert list(answer.params) == ["w"]
    assert answer.params["w"].tolist() == [9.5]


def test_with_no_key_in_common_not_even_strict_off_will_do(lightning, server):
    trainer = make_trainer(lightning)
    flare.patch(trainer, load_state_dict_strict=False)
    server.give({"head": torch.tensor([1.0])})

    with pytest.raises(ClientError, match="does not fit"):
        trainer.fit(line(lightning), batches(1.0))


def test_numpy_arrays_are_loaded_too_and_a_diff_is_taken_against_them(lightning, serving):
    server = serving(transfer_type=flare.ParamsType.DIFF, exchange_format="numpy")
    trainer, module = make_trainer(lightning), line(lightning, momentum=0.0)
    flare.patch(trainer)
    server.give({"w": np.array([10.0], np.float32), "seen": np.array(3)})

    trainer.fit(module, batches(1.0, 2.0))

    answer = server.answer()
    assert answer.params_type is flare.ParamsType.DIFF
    assert {name: value.tolist() for name, value in answer.params.items()} == {"w": [-1.5], "seen": 2}


def test_what_the_module_has_as_fl_meta_goes_along(lightning, server):
    trainer, module = make_trainer(lightning), line(lightning)
    module.__fl_meta__ = {"site_size": 12}
    flare.patch(trainer)
    server.give(weights(10.0))

    trainer.fit(module, batches(1.0))

    assert server.answer().meta == {"site_size": 12, NUM_STEPS: 1}


def test_a_compiled_module_has_the_names_of_the_plain_one(pl, server):
    trainer, module = make_trainer(pl), torch.compile(line(pl, momentum=0.0), backend="eager")
    flare.patch(trainer)

    for _ in range(2):
        server.give(weights(10.0))
        trainer.validate(module, batches(1.0), verbose=False)
        trainer.fit(module, batches(1.0))
        answer = server.answer()
        assert {name: value.tolist() for name, value in answer.params.items()} == {"w": [9.5], "seen": 1}


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", torch.float32), ("bf16-true", torch.bfloat16)])
def test_lower_precision_trains_and_sends(lightning, server, precision, dtype):
    trainer, module = make_trainer(lightning, precision=precision), line(lightning, momentum=0.5)
    flare.patch(trainer)

    for expected in ([9.5], [9.25]):
        server.give(weights(10.0))
        trainer.validate(module, batches(1.0), verbose=False)
        trainer.fit(module, batches(1.0))
        answer = server.answer()
        assert answer.params["w"].dtype is dtype
        assert answer.params["w"].tolist() == expected
        assert answer.metrics["val"] == 10.0


@pytest.mark.parametrize("kept", [True, False])
def test_a_model_to_submit_is_the_best_checkpoint_or_else_what_was_trained_last(pl, server, kept):
    best = [pl.callbacks.ModelCheckpoint(monitor="val", mode="min")] if kept else []
    trainer = make_trainer(pl, callbacks=best, enable_checkpointing=kept)
    module = line(pl, momentum=0.0)
    flare.patch(trainer)
    for w in (10.0, 30.0):
        server.give(weights(w))
        assert flare.is_running()
        trainer.fit(module, batches(1.0), batches(1.0))
        server.answer()

    server.give(name="submit_model")
    assert flare.is_running()
    assert flare.is_submit_model()
    trainer.validate(module, batches(1.0), verbose=False)
    trainer.fit(module, batches(1.0), batches(1.0))

    answer = server.answer()
    assert answer.params["w"].tolist() == [9.5 if kept else 29.5]
    assert trainer.global_step == 2


def test_the_logger_says_what_the_module_logs_to_the_server(pl, server):
    trainer = make_trainer(pl, logger=flare.ClientLogger(), log_every_n_steps=1)
    module = line(pl)
    module.save_hyperparameters({"lr": 0.5})
    flare.patch(trainer)
    server.give(weights(10.0))

    trainer.fit(module, batches(1.0, 1.0))

    said = []
    while isinstance((message := server.heard()[0]), LogValues) or not said:
        if isinstance(message, LogValues):
            said.append((message.kind, message.values, message.step))
    assert said == [
        ("param", {"lr": "0.5"}, None),
        ("metric", {"train_loss": 0.0, "epoch": 0.0}, 0),
        ("metric", {"train_loss": 0.0, "epoch": 0.0}, 1),
    ]


def test_a_prefix_stands_before_the_names_of_metrics(server):
    with flare.init():
        flare.ClientLogger("site", flare.init()).log_metrics({"loss": 0.5}, step=3)
        flare.ClientLogger(prefix="").log_metrics({"loss": 0.25})

        said = [server.heard()[0] for _ in range(2)]

    assert [(each.values, each.step) for each in said] == [({"site-loss": 0.5}, 3), ({"loss": 0.25}, None)]


def test_a_process_that_lightning_started_beside_rank_0_does_not_talk_to_the_server(monkeypatch):
    monkeypatch.setenv(SITE, "site-4")
    monkeypatch.setenv(ADDRESS, "nobody must go there")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("FEDSAG_TASK_KIND", "evaluate")

    with flare.init():
        assert flare.is_running()  # it was started in the middle of a task
        assert flare.receive() is None
        assert (flare.is_train(), flare.is_evaluate(), flare.is_submit_model()) == (False, True, False)
        assert flare.get_site_name() == "site-4"


NET = """
    import torch
    import {package} as pl

    class Net(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Dropout(), torch.nn.Linear(8, 1))

        def _loss(self, batch):
            x, y = batch
            return ((self.model(x) - y) ** 2).mean()

        def training_step(self, batch, batch_idx):
            return self._loss(batch)

        def validation_step(self, batch, batch_idx):
            self.log("val_loss", self._loss(batch), on_step=True, on_epoch=True, sync_dist=True)

        def test_step(self, batch, batch_idx):
            self.log("test_loss", self._loss(batch), sync_dist=True)

        def predict_step(self, batch, batch_idx):
            return self.model(batch[0])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)
"""

# the form of the tutorials: a data module, and no word of tasks
TUTORIAL = """
    import os

    import torch
    import {package} as pl
    from net import Net
    from torch.utils.data import DataLoader, TensorDataset, random_split

    import nvflare.client.lightning as flare

    def say(*words):
        os.write(1, (" ".join(map(str, words)) + "\\n").encode())  # in one piece: two processes write to the log

    class Data(pl.LightningDataModule):
        def setup(self, stage):
            x = torch.randn(60, 2, generator=torch.Generator().manual_seed(5))
            every = TensorDataset(x, x.sum(1, keepdim=True))
            if stage in ("fit", "validate"):
                self.train, self.val = random_split(every, [40, 20])
            else:
                self.test = every

        def train_dataloader(self):
            return DataLoader(self.train, batch_size=4, shuffle=True)

        def val_dataloader(self):
            return DataLoader(self.val, batch_size=4)

        def test_dataloader(self):
            return DataLoader(self.test, batch_size=20)

        predict_dataloader = test_dataloader

    def main():
        model, data = Net(), Data()
        trainer = pl.Trainer(
            max_epochs=1, enable_progress_bar=False, enable_model_summary=False, logger=False, {trainer}
        )
        flare.patch(trainer)
        while flare.is_running():
            input_model = flare.receive()
            if input_model:
                print(f"[current round {{input_model.current_round}} of {{flare.get_site_name()}}]")
            trainer.validate(model, datamodule=data)
            trainer.fit(model, datamodule=data)
            trainer.test(ckpt_path="best", datamodule=data)
            batches = trainer.predict(ckpt_path="best", datamodule=data)
            say("rank", trainer.global_rank, "predicted", len(batches), "epoch", trainer.current_epoch)
        say("rank", trainer.global_rank, "ends")

    if __name__ == "__main__":
        main()
"""


def tutorial(folder, package="lightning.pytorch", trainer="accelerator='cpu', devices=1", script=TUTORIAL, **settings):
    return torch_job(
        folder,
        script.format(package=package, trainer=trainer),
        net=NET.format(package=package),
        tasks=["train", "validate"],
        **settings,
    )


@pytest.fixture(scope="module")
def of_the_tutorials(tmp_path_factory):
    """A run of a script of the tutorials, by package; each is run once."""

    @functools.cache
    def ran(package):
        return run(tutorial(tmp_path_factory.mktemp("tutorial") / "job", package), "-n", 2, "-t", 2, "--seed", 5)

    return ran


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_a_script_of_the_tutorials_runs_as_it_is(of_the_tutorials, package):
    pytest.importorskip(package)

    ran = of_the_tutorials(package)

    assert ran.code == 0, f"{ran}\n{ran.log('site-1')}"
    assert [each["num_steps"] for each in ran.report["rounds"]] == [{"site-1": 10.0, "site-2": 10.0}] * 2
    losses = [each["site-1"] for each in ran.metrics("val_loss_epoch")]
    assert losses[1] < losses[0]
    assert set(ran.report["final_metrics_by_site"]) == {"site-1", "site-2"}
    said = ran.log("site-1")
    assert "[current round 1 of site-1]" in said
    assert said.count("predicted 3 epoch 2") == 2, "of the second round, and of the final evaluation"


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits_for_every_slot_count_and_launcher(of_the_tutorials, tmp_path):
    job = tutorial(tmp_path / "job")

    one = of_the_tutorials("lightning.pytorch")
    same = run(job, "-n", 2, "-t", 1, "--seed", 5, "--launcher", "spawn", workspace=tmp_path / "again")
    other = run(job, "-n", 2, "-t", 2, "--seed", 6, workspace=tmp_path / "other")

    assert (one.code, same.code, other.code) == (0, 0, 0), f"{one}\n{one.log('site-1')}"
    assert one.report["digest"] == same.report["digest"] != other.report["digest"]
    assert one.report["seeded_themselves"] == []


@pytest.mark.slow
def test_two_processes_train_one_model_in_every_round_and_both_end(tmp_path):
    job = tutorial(tmp_path / "job", trainer="accelerator='cpu', devices=2, strategy='ddp'")

    ran = run(job, "-n", 2, "-t", 2, "--seed", 5)

    assert ran.code == 0, f"{ran}\n{ran.log('site-1')}"
    assert [each["num_steps"] for each in ran.report["rounds"]] == [{"site-1": 5.0, "site-2": 5.0}] * 2
    for site in ("site-1", "site-2"):
        for rank in (0, 1):
            assert ran.log(site).count(f"rank {rank} predicted 2 epoch 2") == 2, ran.log(site)
            assert f"rank {rank} ends" in ran.log(site)
        assert ran.log(site).count("[current round 1") == 1


LINE = """
    import torch
    import lightning.pytorch as pl

    class Net(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.tensor([10.0]))

        def training_step(self, batch, batch_idx):
            return (self.w * batch).mean()

        def validation_step(self, batch, batch_idx):
            self.log("mean", (self.w * batch).mean(), sync_dist=True)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.5, momentum=0.5)
"""

# every rank asks what the task is; while it waits for one, torch would give up on the other rank after half a second
BY_TASK = """
    import time
    from datetime import timedelta

    import lightning.pytorch as pl
    import torch
    from net import Net
    from torch.distributed.distributed_c10d import _set_pg_timeout
    from torch.utils.data import DataLoader

    import fedsag_cli.client.lightning as flare

    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", devices=2, strategy="ddp",
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, logger=False,
    )
    flare.patch(trainer)
    model, data = Net(), DataLoader(torch.tensor([[1.0], [3.0]]), batch_size=1)
    while flare.is_running():
        if torch.distributed.is_initialized():
            _set_pg_timeout(timedelta(minutes=5))
        assert (flare.receive() is None) == (trainer.global_rank != 0)
        if flare.is_evaluate():
            trainer.validate(model, data)
        if flare.is_train():
            if flare.get_site_name() == "site-1":
                time.sleep(2.0)
            trainer.fit(model, data)
        # one write: both ranks print to the same log
        print(f"rank {trainer.global_rank} has {model.w.item()} to evaluate: {flare.is_evaluate()}\\n", end="")
        _set_pg_timeout(timedelta(seconds=0.5))
"""


@pytest.mark.slow
def test_two_processes_take_the_mean_of_their_gradients_as_done_by_hand(tmp_path):
    job = torch_job(tmp_path / "job", BY_TASK, net=LINE, tasks=["train", "validate"], num_rounds=2)

    ran = run(job, "-n", 2, "-t", 1)

    assert ran.code == 0, f"{ran}\n{ran.log('site-1')}"
    # the gradients of the ranks are 1 and 3, the steps 0.5 * 2 and, with the momentum, 0.5 * (2 + 1)
    for rank in (0, 1):
        said = [line for line in ran.log("site-2").splitlines() if line.startswith(f"rank {rank}")]
        assert said == [
            f"rank {rank} has 9.0 to evaluate: False",
            f"rank {rank} has 7.5 to evaluate: False",
            f"rank {rank} has 7.5 to evaluate: True",
        ]
    assert ran.report["final_metrics"] == {"mean": 15.0}


@pytest.mark.slow
def test_the_template_runs_without_data_and_says_only_what_its_script_prints(tmp_path):
    changes = [
        "-f", "config_fed_client.conf", "app_config=--limit 60 --batch_size 20 --local_epochs 1",
        'tasks=["train", "validate"]', "-f", "config_fed_server.conf", "num_rounds=2",
    ]  # fmt: skip
    made = fedsag("job", "create", "-w", "sag_pt_lightning", "-j", "my_job", *changes, cwd=tmp_path)
    assert made.code == 0, made

    ran = run(tmp_path / "my_job", "-n", 2, "-t", 2)

    assert ran.code == 0, f"{ran}\n{ran.log('site-1')}"
    assert [each["num_steps"] for each in ran.report["rounds"]] == [{"site-1": 3.0, "site-2": 3.0}] * 2
    assert all(0 <= value <= 1 for each in ran.metrics("val_acc") for value in each.values())
    saved = torch.load(
        ran.workspace / "server" / "simulate_job" / "app_server" / "FL_global_model.pt", weights_only=True
    )
    assert sum(value.numel() for value in saved["model"].values()) == 62_006
    assert {name.partition(".")[0] for name in saved["model"]} == {"model"}
    lines = ran.log("site-1").splitlines()
    assert "generated set" in lines[0]
    assert all(line.startswith("(site-1) ") for line in lines[1:]), lines
    assert {"train_loss", "val_acc"} <= {name for each in ran.told("ValuesLogged") for name in each["values"]}


@pytest.mark.slow
def test_without_lightning_the_template_says_in_one_line_what_to_install(tmp_path):
    hidden = tmp_path / "hidden" / "lightning"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'lightning'\", name='lightning')")
    env = {"PYTHONPATH": str(hidden.parent)}
    made = fedsag("job", "create", "-w", "sag_pt_lightning", "-j", "my_job", cwd=tmp_path)
    assert made.code == 0, made

    ran = run(tmp_path / "my_job", "-n", 1, env=env)
    script = tmp_path / "my_job" / "app" / "custom" / "train.py"
    alone = subprocess.run([sys.executable, script], capture_output=True, text=True, env=os.environ | env)

    assert ran.code != 0
    assert "pip install 'fedsag[lightning]'" in ran.err
    assert alone.stderr == "error: Lightning is not installed: pip install 'fedsag[lightning]'\n"


@pytest.mark.slow
def test_with_scaffold_both_processes_of_a_client_make_the_corrected_steps(tmp_path):
    """The mean gradients are 2 and 4: 10 - 0.5 * 2 = 9, 10 - 0.5 * 4 = 8, so c_1 = 2, c_2 = 4 and c = 3.

    From 8.5, both sites go by 0.5 * 3.
    """
    by_site = BY_TASK.replace("[[1.0], [3.0]])", "[[1.0], [3.0]]) * int(flare.get_site_name()[-1])")
    net = LINE.replace(", momentum=0.5", "")
    aggregator = {"aggregator": {"path": "Scaffold"}}
    job = torch_job(tmp_path / "job", by_site, net=net, components=aggregator, num_rounds=2)

    ran = run(job, "-n", 2, "-t", 2)

    assert ran.code == 0, f"{ran}\n{ran.log('site-1')}"
    for site, first in (("site-1", 9.0), ("site-2", 8.0)):
        for rank in (0, 1):
            said = [line for line in ran.log(site).splitlines() if line.startswith(f"rank {rank}")]
            assert said == [f"rank {rank} has {w} to evaluate: False" for w in (first, 7.0)]
