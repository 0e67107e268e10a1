"""Hugging Face's trainers as clients: against a server that says what the test tells it to, and in whole runs."""

import importlib
import json
import os
import re
import signal
import subprocess
import sys

import pytest
from runs import Running, run, torch_job

import fedsag_cli.client.hf as flare
from fedsag_cli import client
from fedsag_cli.client import seeding
from fedsag_cli.errors import ClientError
from fedsag_cli.model import NUM_STEPS
from fedsag_cli.params.seeds import derived, seeded
from fedsag_cli.params.tensor_file import TensorFile
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


def start_again(serving):
    """As a new process of the same site: its server."""
    for known in (flare._ranks, flare._patched, client._contexts, client._last, seeding._streams):
        known.clear()
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


def file_of(**kept):
    """What a site keeps, as it comes with a task."""
    return TensorFile.write({}, trees={"flare.state": kept, "filters": {}})


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


def own_sgd(model, rate=0.5):
    """An optimizer and a schedule as a script gives them to its trainer."""
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.5)
    return optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)


@pytest.mark.parametrize("is_own", [False, True], ids=["of the trainer", "of the script"])
def test_without_restore_state_every_round_has_a_new_optimizer(server, is_own):
    model = Line()
    trainer = flare.patch(
        make_trainer(model, optimizers=own_sgd(model) if is_own else (None, None)), restore_state=False
    )

    for round_num in range(2):
        server.give(weights(10.0), round_num=round_num)
        trainer.train()
        assert server.answer().params["w"].tolist() == [8.75]
    assert server.state.tree("flare.state") == {"hf": {"steps": 4}}


@pytest.mark.parametrize("is_own", [False, True], ids=["of the trainer", "of the script"])
def test_optimizer_and_schedule_go_on_in_a_process_that_starts_again(serving, is_own):
    """Two rounds of one step, with momentum 0.5, and rates of 0.5 and 0.25."""

    def patched():
        model = Line()
        optimizer, _ = own_sgd(model)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=2)
        given = {"optimizers": (optimizer, schedule)} if is_own else {"lr_scheduler_type": "linear"}
        return flare.patch(make_trainer(model, max_steps=1, **given), stream_metrics=True)

    ends, kept = [], None
    for round_num in range(2):
        server, trainer = start_again(serving), patched()
        server.give(weights(10.0), round_num=round_num, total=2, state=kept)
        trainer.train()
        ends.append(server.answer().params["w"].item())
        kept = server.state

    assert ends == [10.0 - 0.5 * 1.0, 10.0 - 0.25 * 1.5]
    assert kept.tree("flare.state")["hf"]["steps"] == 2


def test_what_a_rejected_answer_has_trained_does_not_go_on(server):
    trainer = flare.patch(make_trainer(max_steps=1))
    for round_num in range(2):
        server.give(weights(10.0), round_num=round_num, state=file_of() if round_num else None)
        trainer.train()

        assert server.answer().params["w"].item() == 9.5


def test_a_fork_that_asks_for_another_learning_rate_gets_it_with_a_new_optimizer(serving):
    server = serving()
    trainer = flare.patch(make_trainer(max_steps=1))
    server.give(weights(10.0))
    trainer.train()
    server.answer()
    kept = server.state

    server = start_again(serving)
    trainer = flare.patch(make_trainer(max_steps=1, learning_rate=2.0))
    ends = []
    for round_num in (1, 2):
        server.give(weights(10.0), round_num=round_num, state=kept)
        trainer.train()
        ends.append(server.answer().params["w"].item())
        kept = server.state

    assert ends == [10.0 - 2.0 * 1.0, 10.0 - 2.0 * 1.5]


def test_the_scale_of_gradients_in_fp16_goes_on_too(serving):
    def patched():
        made = make_trainer(max_steps=1)
        made.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1)
        return flare.patch(made)

    kept, scales = None, []
    for round_num in range(2):
        server, trainer = start_again(serving), patched()
        server.give(weights(10.0), round_num=round_num, state=kept)
        trainer.train()
        server.answer()
        kept = server.state
        scales.append(kept.tree("flare.state")["hf"]["scaler"]["scale"])

    assert scales == [16.0, 32.0]


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
        trainer.evaluate()
        trainer.train()
        while isinstance(message := server.heard()[0], Ready | LogValues):
            if isinstance(message, LogValues):
                steps += [(name, message.step) for name in message.values if name in ("loss", "eval_loss")]

    one = [("eval_loss", 0), ("loss", 1), ("loss", 2)]
    assert steps == one + [(name, step + 2) for name, step in one]


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


TINY_LANGUAGE_MODEL = """
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from fedsag_cli.client.hf import adapter_state

LORA = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, lora_dropout=0.1, task_type="CAUSAL_LM")

def tokenizer():
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    of_bytes = Tokenizer(models.BPE({letter: i for i, letter in enumerate(["<end>", *letters])}, []))
    of_bytes.pre_tokenizer, of_bytes.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=of_bytes, eos_token="<end>", pad_token="<end>")

def base():
    size = {"vocab_size": 257, "n_positions": 64, "n_embd": 16, "n_layer": 1, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(**size, bos_token_id=0, eos_token_id=0))

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self._state = adapter_state(get_peft_model(base(), LORA))

    def state_dict(self, *args, **kwargs):
        return self._state
"""
TRL = """
import os
import time

import net
import trl
from datasets import Dataset

import fedsag_cli.client.hf as flare

def trainer_of(kind, model, index):
    words = "the quick brown fox jumps over the lazy dog".split()
    turned = [words[i % 9:] + words[:i % 9] for i in range(index, 18, 2)]
    rows = {
        "SFT": [{"text": " ".join(each)} for each in turned],
        "DPO": [{"prompt": each[0], "chosen": each[1], "rejected": each[2]} for each in turned],
    }[kind]
    args = getattr(trl, kind + "Config")(
        "trainer", max_steps=2, per_device_train_batch_size=2, max_length=48, learning_rate=0.01, save_strategy="no",
        report_to=[], use_cpu=True, bf16=False, disable_tqdm=True,
    )
    return getattr(trl, kind + "Trainer")(
        model, args=args, train_dataset=Dataset.from_list(rows), eval_dataset=Dataset.from_list(rows[:4]),
        processing_class=net.tokenizer(), peft_config=net.LORA,
    )

if __name__ == "__main__":
    flare.init()
    trainer = flare.patch(trainer_of("SFT", flare.shared(net.base), flare.site().index))
    while flare.is_running():
        trainer.evaluate()
        trainer.train()
        time.sleep(float(os.environ.get("SLOW", "0")))
"""


@pytest.fixture
def of_trl(tmp_path, monkeypatch):
    """The module of that script, if TRL is installed."""
    pytest.importorskip("trl", reason="TRL is not installed: pip install trl")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "net.py").write_text(TINY_LANGUAGE_MODEL)
    (tmp_path / "of_trl.py").write_text(TRL)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("net", "of_trl"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("of_trl")


@pytest.mark.parametrize("kind", ["SFT", "DPO"])
def test_a_trainer_of_trl_trains_the_received_adapter_and_sends_it_alone(of_trl, server, kind):
    trainer = flare.patch(of_trl.trainer_of(kind, of_trl.net.base(), 0))
    received = {name: value + 0.5 for name, value in flare.adapter_state(trainer.model).items()}
    server.give(received)

    measured = trainer.evaluate()
    trainer.train()
    answer = server.answer()

    assert set(answer.params) == set(received)
    moved = [(torch.as_tensor(answer.params[name]) - value).abs().max().item() for name, value in received.items()]
    assert 0.0 < max(moved) < 0.1  # two steps of 0.01 from what was received
    assert answer.metrics["eval_loss"] == measured["eval_loss"]
    assert "eval_num_tokens" in measured  # a count of the trainer's, which begins anew with its process
    assert "eval_num_tokens" not in answer.metrics


@pytest.mark.slow
def test_a_run_with_trls_trainer_comes_to_the_same_bits_for_any_t_and_after_a_kill(of_trl, tmp_path):
    job = torch_job(tmp_path / "job", TRL, net=TINY_LANGUAGE_MODEL, num_rounds=3, tasks=("train", "validate"))
    words = "-n", 2, "--seed", 7

    whole = run(job, *words, "-t", 2, workspace=tmp_path / "whole")
    with Running(job, *words, "-t", 1, env={"SLOW": "0.5"}) as running:
        running.wait_until_told("RoundFinished")
        os.kill(running.pids()["server"], signal.SIGKILL)
        cut = running.outcome()
    resumed = run(job, "--resume")

    assert (whole.code, cut.code, resumed.code) == (0, 4, 0), resumed
    assert resumed.report["resumed_at"]
    assert resumed.report["digest"] == whole.report["digest"]
    assert resumed.report["rounds"][-1]["metrics_by_site"] == whole.report["rounds"][-1]["metrics_by_site"]
    first, second, _ = whole.metrics("eval_loss")
    assert all(second[site] < first[site] for site in first)
    model = whole.workspace / "server" / "simulate_job" / "app_server" / "FL_global_model.pt"
    assert all("lora" in name for name in torch.load(model, weights_only=True)["model"])


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
