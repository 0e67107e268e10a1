"""Train the PyTorch tutorial's network on CIFAR-10 with SCAFFOLD, as one client of a federation."""

import argparse

import data
import torch
import torch.nn as nn
import torch.optim as optim
from net import Net

import fedsag_cli.client as flare
from fedsag_cli.client.scaffold import Scaffold
from fedsag_cli.client.tracking import SummaryWriter

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset_path", default=data.DATASET_PATH, help="the folder with CIFAR-10, see data.py")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--local_epochs", type=int, default=2)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--limit", type=int, default=0, help="use only so many pictures")
    parser.add_argument("--split", help="train on a part: iid, shards or dirichlet:ALPHA (default: on all data)")
    return parser.parse_args()


def train(net, optimizer, loader, epochs):
    """Nothing here knows of SCAFFOLD: it follows the optimizer's steps."""
    net.train()
    criterion = nn.CrossEntropyLoss()
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            criterion(net(images.to(DEVICE)), labels.to(DEVICE)).backward()
            optimizer.step()


@torch.no_grad()
def evaluate(net, loader):
    net.eval()
    correct = sum((net(images.to(DEVICE)).argmax(1) == labels.to(DEVICE)).sum().item() for images, labels in loader)
    return 100 * correct / len(loader.dataset)


def main():
    args = parse_args()
    flare.init()
    site = flare.get_site_name()
    trainset, testset = data.load(args.dataset_path, limit=args.limit)
    if args.split:
        trainset = data.some(trainset, flare.partition(trainset.labels, **data.way(args.split)))
    trainloader = data.Loader(trainset, args.batch_size, shuffle=True)
    testloader = data.Loader(testset, 500)
    net = Net().to(DEVICE)
    steps = args.local_epochs * len(trainloader)
    writer = SummaryWriter()

    while flare.is_running():
        input_model = flare.receive()
        net.load_state_dict(input_model.params)
        accuracy = evaluate(net, testloader)
        print(f"({site}) round {input_model.current_round}: accuracy of the received model: {accuracy:.2f} %")
        if flare.is_evaluate():
            flare.send(flare.FLModel(metrics={"accuracy": accuracy}))
            continue

        optimizer = optim.SGD(net.parameters(), lr=args.lr)
        scaffold = Scaffold(net, optimizer, input_model)
        train(net, optimizer, trainloader, args.local_epochs)
        meta = {"NUM_STEPS_CURRENT_ROUND": steps, **scaffold.finish()}

        writer.add_scalar("local_accuracy", evaluate(net, testloader), global_step=input_model.current_round)
        flare.send(flare.FLModel(params=net.state_dict(), metrics={"accuracy": accuracy}, meta=meta))


if __name__ == "__main__":
    main()
