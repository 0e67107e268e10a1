"""Filters and accounts in whole runs: what travels, what is told, and that noise is a site's own."""

import json

import numpy as np
import pytest
from runs import fedsag, job, run, torch_job

pytestmark = pytest.mark.slow

TRAINS = """
    import torch
    import fedsag_cli.client as flare
    from net import Net

    torch.manual_seed(0)
    flare.init()
    net = Net()
    while flare.is_running():
        model = flare.receive()
        net.load_state_dict(model.params)
        with torch.no_grad():
            for number, value in enumerate(net.parameters()):
                value += 0.1 * torch.linspace(1, 2, value.numel()).reshape(value.shape)
        flare.send(flare.FLModel(params=net.state_dict(), metrics={"mean": float(net.bias.mean())}))
"""
NET = """
    import torch

    class Net(torch.nn.Linear):
        def __init__(self):
            torch.manual_seed(5)
            super().__init__(500, 100)
"""
ZEROS = """
    import numpy as np
    import torch
    import fedsag_cli.client as flare

    torch.manual_seed(0)
    np.random.seed(0)
    flare.init()
    while flare.is_running():
        model = flare.receive()
        flare.send(flare.FLModel(params=model.params, metrics={"mean": 0.0}))
"""
KEEPS = """
    import os
    import numpy as np

    class Keeps:
        def process(self, model, exchange):
            name = f"{exchange.site}-{exchange.round_num}.npy"
            np.save(os.path.join(os.environ["KEPT"], name), model.params["numpy_key"])
            return model
"""
CENTRAL = {"path": "DPFedAvg", "args": {"clip_norm": 1.0, "noise_multiplier": 2.0}}


def filtered(folder, *links, config="config_fed_client", key="task_result_filters"):
    """The job with these filters in a config of its app."""
    file = folder / "app" / "config" / f"{config}.json"
    values = json.loads(file.read_text())
    values[key] = [{"tasks": ["train"], "filters": [{"path": path, "args": args} for path, args in links]}]
    file.write_text(json.dumps(values))
    return folder


def quantized(folder, kind):
    """The job with a pair of filters in both directions."""
    short, long = ("ModelQuantizer", {"quantization_type": kind}), ("ModelDequantizer", {})
    filtered(folder, short, config="config_fed_server", key="task_data_filters")
    filtered(folder, long, key="task_data_filters")
    filtered(folder, short)
    return filtered(folder, long, config="config_fed_server")


def trained(folder, **settings):
    settings = {"net": NET, "num_rounds": 3, "executor": {"params_transfer_type": "DIFF"}, **settings}
    return torch_job(folder, TRAINS, **settings)


def weights(outcome):
    import torch

    path = next(path for path in outcome.workspace.rglob("FL_global_model.pt"))
    return {name: value.numpy() for name, value in torch.load(path, weights_only=True)["model"].items()}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    outcome = run(trained(tmp_path_factory.mktemp("plain") / "job"), "-n", 2, "-t", 2, "--seed", 1)
    assert outcome.code == 0, outcome
    return outcome


def bytes_of(outcome):
    return [(each["bytes_sent"], each["bytes_received"]) for each in outcome.report["rounds"]]


@pytest.mark.parametrize("transfer", ["DIFF", "FULL"])
@pytest.mark.parametrize(
    ("kind", "least", "most", "error"), [("float16", 1.98, 2.0, 2e-3), ("blockwise8", 3.8, 4.0, 0.02)]
)
def test_quantization_both_ways_saves_its_share_and_the_model_is_nearly_the_same(
    tmp_path, plain, kind, least, most, error, transfer
):
    made = trained(tmp_path / "job", executor={"params_transfer_type": transfer})

    outcome = run(quantized(made, kind), "-n", 2, "-t", 2, "--seed", 1)

    assert outcome.code == 0, f"{outcome}\n{outcome.log('site-1')}"
    for dense, short in zip(bytes_of(plain), bytes_of(outcome), strict=True):
        assert least < dense[0] / short[0] < most
        assert least < dense[1] / short[1] < most
    found, expected = weights(outcome), weights(plain)
    for name, value in expected.items():
        assert np.abs(found[name] - value).max() < error
        assert found[name].dtype == np.float32


def test_top_k_saves_bytes_and_what_is_not_sent_comes_later(tmp_path, plain):
    """With a tenth in each round, the largest changes have arrived after three rounds, and nothing else has."""
    made = filtered(trained(tmp_path / "job"), ("TopKSparsifier", {"fraction": 0.1}))
    filtered(made, ("TopKDensifier", {}), config="config_fed_server")

    outcome = run(made, "-n", 2, "-t", 2, "--seed", 1)

    assert outcome.code == 0, f"{outcome}\n{outcome.log('site-1')}"
    for (_, dense), (_, sparse) in zip(bytes_of(plain), bytes_of(outcome), strict=True):
        assert 4.7 < dense / sparse < 5.0
    begin = run(trained(tmp_path / "none", num_rounds=1), "-n", 1, "-t", 1, "--seed", 1, workspace=tmp_path / "one")
    start = {
        name: value - 0.1 * np.linspace(1, 2, value.size).reshape(value.shape) for name, value in weights(begin).items()
    }
    changed = np.concatenate([(weights(outcome)[name] - start[name]).reshape(-1) for name in start])
    moved = np.abs(changed) > 0.01
    assert 0.1 <= moved.mean() <= 0.3
    assert (changed[moved] >= 0.15).all()


def test_two_sites_with_the_same_seed_in_their_scripts_do_not_draw_the_same_noise(tmp_path):
    """Both send a difference of zero, so what arrives is the noise alone."""
    made = job(
        tmp_path / "job", ZEROS, num_rounds=2, files={"keeps.py": KEEPS}, executor={"params_transfer_type": "DIFF"}
    )
    filtered(made, ("GaussianPrivacy", {"clip_norm": 1.0, "noise_multiplier": 1.0}))
    filtered(made, ("keeps.Keeps", {}), config="config_fed_server")

    outcome = run(made, "-n", 2, "-t", 2, "--seed", 1, env={"KEPT": str(tmp_path)})

    assert outcome.code == 0, f"{outcome}\n{outcome.log('site-1')}"
    noise = {path.stem: np.load(path) for path in tmp_path.glob("*.npy")}
    assert sorted(noise) == ["site-1-0", "site-1-1", "site-2-0", "site-2-1"]
    drawn = np.concatenate([value.reshape(-1) for value in noise.values()])
    assert len(set(drawn.tolist())) == drawn.size == 36
    assert outcome.report["seeded_themselves"] == ["site-1", "site-2"]


@pytest.mark.parametrize("words", [["-t", 1], ["-t", 2, "--launcher", "spawn"]])
def test_noise_has_the_same_bits_whoever_starts_the_clients_and_how_many_at_a_time(tmp_path, words):
    made = filtered(job(tmp_path / "job", ZEROS), ("GaussianPrivacy", {"clip_norm": 1.0, "noise_multiplier": 1.0}))

    first = run(made, "-n", 2, "-t", 2, "--seed", 1, workspace=tmp_path / "first")
    second = run(made, "-n", 2, *words, "--seed", 1, workspace=tmp_path / "second")

    assert first.code == second.code == 0, second
    assert first.report["digest"] == second.report["digest"]


def test_epsilon_is_told_with_each_round_in_the_report_and_at_the_end(tmp_path):
    made = job(tmp_path / "job", num_rounds=2, num_clients=2, components={"aggregator": CENTRAL})

    outcome = run(made, "-n", 4, "-t", 2, "--seed", 1)

    assert outcome.code == 0, outcome
    first, second = (each["privacy"] for each in outcome.report["rounds"])
    assert 0 < first["epsilon"] < second["epsilon"]
    assert second["delta"] == 1e-5
    assert [event["epsilon"] for event in outcome.told("PrivacySpent")] == [first["epsilon"], second["epsilon"]]
    line = next(line for line in outcome.out.splitlines() if line.startswith("privacy: "))
    assert line.endswith("at delta 1e-05, for the data of one client, by DPFedAvg, 2 of 4 clients drawn in each round")
    assert outcome.report["rounds"][0]["aggregate"] == {"clipped": 2}


def test_an_account_without_the_noise_that_it_counts_is_an_error_before_any_round(tmp_path):
    accountant = {"path": "GaussianAccountant", "args": {"delta": 1e-5}}
    made = job(tmp_path / "job", components={"accountant": accountant})

    refused = run(made, "-n", 2, "-t", 2, workspace=tmp_path / "refused")
    noised = filtered(made, ("GaussianPrivacy", {"clip_norm": 1.0, "noise_multiplier": 4.0}))
    accepted = run(noised, "-n", 2, "-t", 2, workspace=tmp_path / "accepted")

    assert refused.code == 3, refused
    assert "site-1 has no filter GaussianPrivacy for the task 'train'" in refused.err
    assert refused.told("RoundStarted") == []
    assert accepted.code == 0, accepted
    assert accepted.report["rounds"][1]["privacy"]["epsilon"] > 0


def test_a_filter_of_a_client_gets_the_model_as_it_was_received_even_if_the_script_changed_it(tmp_path):
    """It adds 1 to each of 9 numbers, in place: a difference of norm 3, so 1/3 each is left."""
    script = """
        import fedsag_cli.client as flare

        flare.init()
        while flare.is_running():
            model = flare.receive()
            model.params["numpy_key"] += 1
            flare.send(flare.FLModel(params=model.params, metrics={"mean": 0.0}))
    """
    made = filtered(job(tmp_path / "job", script), ("GaussianPrivacy", {"clip_norm": 1.0, "noise_multiplier": 0}))

    outcome = run(made, "-n", 2, "-t", 2)

    assert outcome.code == 0, f"{outcome}\n{outcome.log('site-1')}"
    final = np.load(outcome.workspace / "server" / "simulate_job" / "models" / "server.npy")
    assert final.reshape(-1).tolist() == pytest.approx([number + 2 / 3 for number in range(1, 10)])


@pytest.mark.parametrize("launcher", ["fork", "spawn"])
def test_the_template_runs_as_it_is_learns_and_tells_epsilon(tmp_path, launcher):
    assert fedsag("job", "create", "-w", "sag_np_dp", "-j", "my_job", cwd=tmp_path).code == 0

    ran = run(tmp_path / "my_job", "-n", 2, "-t", 2, "--seed", 1, "--launcher", launcher)

    assert ran.code == 0, f"{ran}\n{ran.log('site-1')}"
    assert ran.report["rounds"][-1]["metrics"]["accuracy"] > ran.report["rounds"][0]["metrics"]["accuracy"] + 20
    assert ran.report["rounds"][-1]["privacy"]["epsilon"] == pytest.approx(46.2112, abs=1e-4)
    assert "privacy: epsilon 46.21 at delta 1e-05" in ran.out
