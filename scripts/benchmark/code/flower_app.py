"""The same training as a Flower simulation. A program: NET CLIENTS SLOTS PICTURES COHORTS FILE.

COHORTS is a file: the numbers of the clients of each round.
"""

import json
import sys
from pathlib import Path

import net as nets
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from training import pictures, round_ended, train

NET, (CLIENTS, SLOTS, PICTURES), (COHORTS, FILE) = getattr(nets, sys.argv[1]), map(int, sys.argv[2:5]), sys.argv[5:7]
client_app, server_app = ClientApp(), ServerApp()


class Drawn(FedAvg):
    """FedAvg of the clients of each round as COHORTS has them: Flower's own draw has no seed."""

    def __init__(self, cohorts: list[list[int]]) -> None:
        most = max(map(len, cohorts))
        super().__init__(fraction_train=1e-9, fraction_evaluate=0.0, min_train_nodes=most, min_available_nodes=CLIENTS)
        self._cohorts = cohorts

    def configure_train(self, server_round, arrays, config, grid):
        messages = list(super().configure_train(server_round, arrays, config, grid))
        for message, number in zip(messages, self._cohorts[server_round - 1], strict=True):
            message.content = RecordDict({"arrays": arrays, "config": ConfigRecord({"number": number})})
        return messages

    def aggregate_train(self, server_round, replies):
        merged = super().aggregate_train(server_round, replies)
        round_ended()
        return merged


@client_app.train()
def train_round(message: Message, context: Context) -> Message:  # noqa: ARG001 - what Flower calls it with
    torch.set_num_threads(1)
    net = NET()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    steps = train(net, *pictures(message.content["config"]["number"], PICTURES))
    reply = {"arrays": ArrayRecord(net.state_dict()), "metrics": MetricRecord({"num-examples": steps})}
    return Message(content=RecordDict(reply), reply_to=message)


@server_app.main()
def serve(grid: Grid, context: Context) -> None:  # noqa: ARG001 - what Flower calls it with
    cohorts = json.loads(Path(COHORTS).read_text())
    result = Drawn(cohorts).start(grid=grid, initial_arrays=ArrayRecord(NET().state_dict()), num_rounds=len(cohorts))
    torch.save({"model": result.arrays.to_torch_state_dict()}, FILE)


if __name__ == "__main__":
    run_simulation(
        server_app,
        client_app,
        num_supernodes=CLIENTS,
        backend_config={"init_args": {"num_cpus": SLOTS}, "client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
