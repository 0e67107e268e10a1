"""FedOpt in NVFLARE's two forms: both give the bits of the template fedopt_pt."""

import pytest
from runs import fedsag, run

OPTIMIZER = """
    optimizer_args { path = "torch.optim.SGD", args { lr = 1.0, momentum = 0.6 }, config_type = "dict" }
    lr_scheduler_args {
      path = "torch.optim.lr_scheduler.CosineAnnealingLR", args { T_max = 2, eta_min = 0.9 }, config_type = "dict"
    }
"""
PERSISTOR = """{ id = "persistor", path = "nvflare.app_opt.pt.file_model_persistor.PTFileModelPersistor"
    args { model { path = "net.Net" } } }"""
WORKFLOW = f"""
workflows = [ {{ id = "fedopt", path = "nvflare.app_opt.pt.fedopt_ctl.FedOpt"
  args {{ num_clients = 2, num_rounds = 2, source_model {{ path = "net.Net" }}, persistor_id = "persistor"
  {OPTIMIZER} }} }} ]
components = [ {PERSISTOR} ]
"""
GENERATOR = f"""
workflows = [ {{ id = "sag", path = "nvflare.app_common.workflows.scatter_and_gather.ScatterAndGather"
  args {{ min_clients = 2, num_rounds = 2, aggregator_id = "aggregator", persistor_id = "persistor"
    shareable_generator_id = "generator" }} }} ]
components = [
  {PERSISTOR}
  {{ id = "generator", path = "nvflare.app_opt.pt.fedopt.PTFedOptModelShareableGenerator"
    args {{ device = "cpu", source_model = "model" {OPTIMIZER} }} }}
  {{ id = "aggregator"
    path = "nvflare.app_common.aggregators.intime_accumulate_model_aggregator.InTimeAccumulateWeightedAggregator"
    args {{ expected_data_kind = "WEIGHT_DIFF" }} }}
]
"""


def outcome(folder, server=None):
    """A run of the template, made small, or of its clients with this config of the server."""
    small = ["-f", "config_fed_client.conf", "app_config=--limit 60 --batch_size 20 --local_epochs 1"]
    rounds = ["-f", "config_fed_server.conf", "num_rounds=2"]
    assert fedsag("job", "create", "-w", "fedopt_pt", "-j", "job", *rounds, *small, cwd=folder).code == 0
    if server:
        (folder / "job/app/config/config_fed_server.conf").write_text(server)
    ran = run(folder / "job", "-n", 2, "-t", 2, "--seed", 1)
    assert ran.code == 0, ran
    return ran


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return outcome(tmp_path_factory.mktemp("ours"))


@pytest.mark.slow
@pytest.mark.parametrize("server", [WORKFLOW, GENERATOR], ids=["workflow", "generator"])
def test_a_server_config_of_nvflare_gives_the_bits_of_the_template(tmp_path, ours, server):
    assert outcome(tmp_path, server).report["digest"] == ours.report["digest"]
