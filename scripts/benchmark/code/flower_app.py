"""The same training as a Flower simulation. A program: CLIENTS SLOTS ROUNDS PICTURES FILE."""

import sys

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from net import Net
from training import pictures, train

CLIENTS, SLOTS, ROUNDS, PICTURES = map(int, sys.argv[1:5])
client_app, server_app = ClientApp(), ServerApp()


@client_app.train()
def train_round(message: Message, context: Context) -> Message:
    torch.set_num_threads(1)
    net = Net()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    steps = train(net, *pictures(int(context.node_config["partition-id"]) + 1, PICTURES))
    reply = {"arrays": ArrayRecord(net.state_dict()), "metrics": MetricRecord({"num-examples": steps})}
    return Message(content=RecordDict(reply), reply_to=message)


@server_app.main()
def serve(grid: Grid, context: Context) -> None:  # noqa: ARG001 - what Flower calls it with
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=CLIENTS, min_available_nodes=CLIENTS)
    result = strategy.start(grid=grid, initial_arrays=ArrayRecord(Net().state_dict()), num_rounds=ROUNDS)
    torch.save({"model": result.arrays.to_torch_state_dict()}, sys.argv[5])


if __name__ == "__main__":
    run_simulation(
        server_app,
        client_app,
        num_supernodes=CLIENTS,
        backend_config={"init_args": {"num_cpus": SLOTS}, "client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
