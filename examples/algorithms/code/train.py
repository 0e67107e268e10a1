"""A client for every algorithm of this example: what the server sends says which one it is."""

import argparse
from functools import partial

import data
import torch
import torch.nn as nn
import torch.optim as optim
from division import divided
from net import Net

import fedsag_cli.client as flare
from fedsag_cli.client.fedprox import PTFedProxLoss
from fedsag_cli.client.scaffold import Scaffold
from fedsag_cli.model import FEDPROX_MU, SCAFFOLD_CTRL_GLOBAL


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset_path", default=data.DATASET_PATH, help="the folder with CIFAR-10, see data.py")
    parser.add_argument("--train_size", type=int, default=5000, help="pictures to train on, all sites together")
    parser.add_argument("--test_size", type=int, default=1000, help="pictures to measure with")
    parser.add_argument("--split", default="iid", help="how they are divided: iid or dirichlet:ALPHA")
    parser.add_argument("--split_seed", type=int, default=0)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--local_epochs", type=int, default=4)
    parser.add_argument("--lr", type=float, default=0.05)
    return parser.parse_args()


def train(net, optimizer, loader, epochs, penalty):
    net.train()
    criterion = nn.CrossEntropyLoss()
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            loss = criterion(net(images), labels) + penalty()
            loss.backward()
            optimizer.step()


@torch.no_grad()
def evaluate(net, loader):
    net.eval()
    correct = sum((net(images).argmax(1) == labels).sum().item() for images, labels in loader)
    return 100 * correct / len(loader.dataset)


def main():
    args = parse_args()
    flare.init()
    pictures, _ = data.load(args.dataset_path, limit=args.train_size)
    _, testset = data.load(args.dataset_path, limit=args.test_size)
    testloader = data.Loader(testset, 500)
    net, global_net = Net(), Net()

    while flare.is_running():
        input_model = flare.receive()
        if input_model.params:  # none if the script is started by hand
            net.load_state_dict(input_model.params)
        accuracy = evaluate(net, testloader)
        if flare.is_evaluate():
            flare.send(flare.FLModel(metrics={"accuracy": accuracy}))
            continue

        site = flare.site()
        parts = divided(pictures.labels, args.split, num_sites=site.count, seed=args.split_seed)
        trainset = data.some(pictures, parts[site.index])
        trainloader = data.Loader(trainset, args.batch_size, shuffle=True)
        optimizer = optim.SGD(net.parameters(), lr=args.lr)
        meta = {"NUM_STEPS_CURRENT_ROUND": args.local_epochs * len(trainloader)}
        scaffold, penalty = None, lambda: 0.0
        if SCAFFOLD_CTRL_GLOBAL in input_model.meta:
            scaffold = Scaffold(net, optimizer, input_model)
        if mu := input_model.meta.get(FEDPROX_MU):
            global_net.load_state_dict(input_model.params)
            penalty = partial(PTFedProxLoss(mu), net, global_net)
        train(net, optimizer, trainloader, args.local_epochs, penalty)
        if scaffold:
            meta |= scaffold.finish()
        flare.send(flare.FLModel(params=net.state_dict(), metrics={"accuracy": accuracy}, meta=meta))


if __name__ == "__main__":
    main()
