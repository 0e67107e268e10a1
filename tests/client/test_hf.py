"""Hugging Face's trainers as clients: against a server that says what the test tells it to, and in whole runs."""

import json
import re
import subprocess
import sys

import pytest
from runs import run, torch_job

import fedsag_cli.client.hf as flare
from fedsag_cli.errors import ClientError
from fedsag_cli.model import NUM_STEPS
from fedsag_cli.params.seeds import derived, seeded
from fedsag_cli.wire.messages import LogValues, Ready

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]


@pytest.fixture(autouse=True)
def fresh_client(fresh_process, monkeypatch, tmp_path):
    """And in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(flare, "_ranks", {})
    monkeypatch.setattr(flare, "_patched", {})
    monkeypatch.setenv("FEDSAG_TASK_KIND", "")  # so that what is set meanwhile goes
    monkeypatch.delenv("FEDSAG_TASK_KIND")


@pytest.fixture
def server(serving):
    return serving()


class Line(torch.nn.Module):
    """One weight, whose gradient is the mean of the batch: every step can be done by hand."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor([7.0]))

    def forward(self, x, labels=None):
        return {"loss": (self.w * x).mean(), "logits": self.w * x}


class TwoLayers(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)

    def forward(self, x, labels=None):
        found = self.second(self.first(x))
        return {"loss": found.sum(), "logits": found}


def data(*values):
    return [{"x": torch.tensor([value]), "labels": torch.tensor([0.0])} for value in values]


def make_trainer(model=None, *, trainset=(1.0, 1.0), testset=(2.0, 4.0), optimizers=(None, None), **given):
    quiet = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "logging_steps": 1}
    settings = {
        "max_steps": 2, "per_device_train_batch_size": 1, "optim": "sgd", "optim_args": "momentum=0.5",
        "learning_rate": 0.5, "lr_scheduler_type": "constant", "max_grad_norm": 0.0,
    }  # fmt: skip
    args = transformers.TrainingArguments("trainer", **(quiet | settings | given))
    return transformers.Trainer(
        model or Line(), args, train_dataset=data(*trainset), eval_dataset=data(*testset), optimizers=optimizers
    )


def weights(w):
    return {"w": torch.tensor([w])}


def lora(seed=0):
    torch.manual_seed(seed)
    return peft.get_peft_model(TwoLayers(), peft.LoraConfig(r=1, target_modules=["first"]))


def test_importing_it_imports_neither_torch_nor_transformers():
    said = subprocess.run(
        [sys.executable, "-c", "import sys, fedsag_cli.client.hf; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert {"torch", "transformers", "peft"}.isdisjoint(said.stdout.split())


def test_two_rounds_train_what_is_done_by_hand_and_the_momentum_goes_on(server):
    trainer = flare.patch(make_trainer())

    server.give(weights(10.0), round_num=0)
    assert flare.is_running()
    assert trainer.evaluate()["eval_loss"] == 30.0
    trainer.train()
    first = server.answer()

    assert first.params["w"].tolist() == [10.0 - 0.5 * (1.0 + 1.5)]
    assert first.metrics == {"eval_loss": 30.0}
    assert first.meta == {NUM_STEPS: 2}

    server.give(weights(20.0), round_num=1)
    assert flare.is_running()
    trainer.train()
    second = server.answer()

    assert second.params["w"].tolist() == [20.0 - 0.5 * (1.75 + 1.875)]
    assert second.metrics is None
    server.end()
    assert not flare.is_running()


def test_without_restore_state_every_round_has_a_new_optimizer(server):
    trainer = flare.patch(make_trainer(), restore_state=False)

    for round_num in range(2):
        server.give(weights(10.0), round_num=round_num)
        trainer.train()
        assert server.answer().params["w"].tolist() == [8.75]


def test_a_learning_rate_schedule_has_the_length_of_all_rounds(server):
    """Two rounds of one step, linear from 0.5 to 0: the rates are 0.5 and 0.25."""
    trainer = make_trainer(lr_scheduler_type="linear", optim_args="momentum=0.0", max_steps=1)
    flare.patch(trainer)
    ends = []

    for round_num in range(2):
        server.give(weights(10.0), round_num=round_num, total=2)
        trainer.train()
        ends.append(server.answer().params["w"].item())

    assert ends == [9.5, 9.75]


@pytest.mark.parametrize(
    ("given", "steps"),
    [({"local_steps": 3}, 3), ({"local_epochs": 2}, 4), ({"local_epochs": 0.5}, 1), ({}, 2)],
)
def test_the_length_of_a_round_is_what_the_script_asks_for_and_the_weight_counts_its_samples(server, given, steps):
    trainer = flare.patch(make_trainer(trainset=(1.0,) * 8, per_device_train_batch_size=4), **given)
    server.give(weights(10.0))

    trainer.train()

    assert server.answer().meta == {NUM_STEPS: 4 * steps}


def test_a_task_to_evaluate_is_answered_with_metrics_only_and_train_does_nothing(server):
    trainer = flare.patch(make_trainer())
    server.give(weights(1.0), name="validate")

    assert flare.is_running()
    assert trainer.train() is None
    assert trainer.evaluate()["eval_loss"] == 3.0
    assert trainer.train() is None
    answer = server.answer()

    assert (answer.params, answer.metrics) == (None, {"eval_loss": 3.0})


def test_a_task_to_submit_the_model_sends_it_as_it_is_now(server):
    trainer = flare.patch(make_trainer())
    server.give(weights(1.0), name="submit_model")

    assert trainer.evaluate() is None

    assert server.answer().params["w"].tolist() == [7.0]


def test_of_a_model_with_an_adapter_only_the_adapter_travels_and_the_base_stays(server):
    model = lora()
    base = {name: value.clone() for name, value in model.state_dict().items() if "lora" not in name}
    trainer = make_trainer(model, optim_args="momentum=0.0", trainset=())
    trainer.train_dataset = [{"x": torch.ones(2), "labels": torch.zeros(1)}] * 2
    flare.patch(trainer)
    received = {name: torch.full_like(value, 0.5) for name, value in flare.adapter_state(model).items()}
    server.give(received)

    trainer.train()
    sent = server.answer().params

    assert set(sent) == set(received) == set(peft.get_peft_model_state_dict(model))
    assert all(not torch.equal(torch.as_tensor(sent[name]), received[name]) for name in sent)
    now = model.state_dict()
    assert all(torch.equal(now[name], value) for name, value in base.items())


def test_the_servers_names_may_have_a_prefix(server):
    trainer = flare.patch(make_trainer(), server_key_prefix="model.")
    server.give({"model.w": torch.tensor([10.0])})

    trainer.train()

    assert server.answer().params["model.w"].tolist() == [8.75]


def test_a_model_that_does_not_fit_is_an_error_that_names_the_keys(server):
    trainer = flare.patch(make_trainer())
    server.give({"v": torch.tensor([1.0])})

    with pytest.raises(ClientError, match=r"does not fit Line: it has no 'w'; it has 'v'"):
        trainer.train()


def test_what_the_trainer_logs_is_streamed_with_the_steps_of_all_rounds(server):
    trainer = flare.patch(make_trainer(), stream_metrics=True)
    steps = []
    for round_num in range(2):
        server.give(weights(10.0), round_num=round_num)
        trainer.train()
        while isinstance(message := server.heard()[0], Ready | LogValues):
            if isinstance(message, LogValues) and "loss" in message.values:
                steps.append(message.step)

    assert steps == [1, 2, 3, 4]


def test_the_random_numbers_stay_the_runs_though_the_trainer_seeds(server, monkeypatch):
    context = flare.init()
    trainer = make_trainer()
    assert context._session.streams.script_seeded

    flare.patch(trainer)

    assert not context._session.streams.script_seeded


@pytest.mark.parametrize(
    ("trainer", "given", "message"),
    [
        (
            {"load_best_model_at_end": True, "save_strategy": "steps", "eval_strategy": "steps"},
            {},
            "load_best_model_at_end",
        ),
        ({}, {"local_steps": 2, "local_epochs": 1}, "not both"),
        ({}, {"local_steps": 0}, "above 0"),
        ({}, {"params_scope": "adapters"}, "adapters"),
        ({}, {"params_scope": "adapter"}, "has none"),
    ],
)
def test_what_cannot_work_is_an_error_before_the_first_task(server, trainer, given, message):
    flare.init()
    with pytest.raises(ClientError, match=message):
        flare.patch(make_trainer(**trainer), **given)


def test_other_objects_and_a_second_trainer_are_errors(server):
    with pytest.raises(TypeError, match="not a Line"):
        flare.patch(Line())
    trainer = flare.patch(make_trainer())

    assert flare.patch(trainer) is trainer
    with pytest.raises(ClientError, match="other arguments"):
        flare.patch(trainer, local_steps=1)
    with pytest.raises(ClientError, match="second trainer"):
        flare.patch(make_trainer())


def test_a_checkpoint_of_the_trainer_cannot_replace_the_received_model(server):
    trainer = flare.patch(make_trainer())
    server.give(weights(10.0))

    with pytest.raises(ClientError, match="resume_from_checkpoint"):
        trainer.train(resume_from_checkpoint=True)


def test_a_server_that_asks_for_fedprox_is_told_that_it_is_not_done(server):
    trainer = flare.patch(make_trainer())
    server.give(weights(10.0), meta={"fedprox_mu": 0.5})

    with pytest.raises(ClientError, match="FedProx"):
        trainer.train()


def test_a_shared_model_gets_memory_once_with_the_runs_random_numbers_and_changes_stay_private(server, monkeypatch):
    built = []

    def build():
        linear = torch.nn.Linear(64, 64)
        linear.register_buffer("scale", torch.ones(2), persistent=False)
        linear.tied = linear.weight
        built.append(linear.weight.device.type)
        return linear

    flare.init()
    state = torch.get_rng_state()
    one, other = flare.shared(build), flare.shared(build)

    assert built == ["cpu", "meta", "meta"]
    assert one.scale.tolist() == [1.0, 1.0]
    assert one.tied is one.weight
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.weight, other.weight)
    with seeded(derived(3, "shared", "base")):
        assert torch.equal(one.weight, torch.nn.Linear(64, 64).weight)
    with torch.no_grad():
        one.weight += 1.0
    assert not torch.equal(one.weight, other.weight)
    assert torch.equal(flare.shared(build).weight, other.weight)


def test_a_shared_model_without_a_run_is_just_built(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    flare.init()

    assert flare.shared(lambda: "model") == "model"


def test_trls_trainers_are_trainers():
    trl = pytest.importorskip("trl")

    assert issubclass(trl.SFTTrainer, transformers.Trainer)


MEMORY_OF_CLIENTS = """
import json
import torch
from net import adapter_of, base
from transformers import Trainer, TrainingArguments

import fedsag_cli.client.hf as flare
from fedsag_cli import machine

flare.init()
model = adapter_of(flare.shared(base))
data = [{"input_ids": torch.arange(16), "labels": torch.arange(16)}] * 4
args = TrainingArguments(
    "trainer", max_steps=1, per_device_train_batch_size=1, save_strategy="no", report_to=[], use_cpu=True
)
trainer = flare.patch(Trainer(model, args, train_dataset=data))
while flare.is_running():
    trainer.train()
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    print("MEMORY", json.dumps({"own": machine.private_memory(), "model": size}))
"""
NET = """
import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

from fedsag_cli.client.hf import adapter_state

def base():
    return GPT2LMHeadModel(GPT2Config(vocab_size=8192, n_positions=32, n_embd=768, n_layer=5, n_head=4))

def adapter_of(model):
    return get_peft_model(model, LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True))

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self._state = adapter_state(adapter_of(base()))

    def state_dict(self, *args, **kwargs):
        return self._state
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_four_clients_have_the_base_model_once_in_memory_and_only_the_adapter_travels(tmp_path):
    job = torch_job(tmp_path / "job", MEMORY_OF_CLIENTS, net=NET)

    told = run(job, "-n", "4", "-t", "4")

    assert told.code == 0, told.err
    logs = [(tmp_path / "ws" / f"site-{number}" / "log.txt").read_text() for number in range(1, 5)]
    last = [json.loads(re.findall(r"MEMORY (.*)", text)[-1]) for text in logs]
    assert all(each["model"] > 150 << 20 for each in last)
    assert all(each["own"] < 100 << 20 for each in last), last
    model = tmp_path / "ws" / "server" / "simulate_job" / "app_server" / "FL_global_model.pt"
    saved = torch.load(model, weights_only=True)["model"]
    assert all("lora" in name for name in saved)
    assert sum(value.numel() for value in saved.values()) < 100_000
