"""Train the PyTorch tutorial's network on CIFAR-10 with Ditto: a global model, and a personal one for this site."""

import argparse

import data
import numpy as np
import torch
import torch.nn as nn
import torch.optim as optim
from net import Net

import fedsag_cli.client as flare
from fedsag_cli.client.ditto import Ditto
from fedsag_cli.client.tracking import SummaryWriter

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset_path", default=data.DATASET_PATH, help="the folder with CIFAR-10, see data.py")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--local_epochs", type=int, default=2)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--lam", type=float, default=0.1, help="how near the personal model stays to the global one")
    parser.add_argument("--limit", type=int, default=0, help="use only so many pictures")
    parser.add_argument(
        "--split", default="dirichlet:0.3", help="this site's part of the pictures: iid or dirichlet:ALPHA"
    )
    return parser.parse_args()


def own_pictures(pictures, split):
    """This site's part of the pictures: four fifths to train on, and one fifth to measure with."""
    own = data.some(pictures, flare.partition(pictures.labels, **data.way(split)))
    measures = np.arange(len(own)) % 5 == 0
    return tuple(data.Pictures(own.images[which], own.labels[which]) for which in (~measures, measures))


def train(net, loader, epochs, lr, penalty):
    """Training with one more term in the loss: 0 for the global model."""
    net.train()
    criterion, optimizer = nn.CrossEntropyLoss(), optim.SGD(net.parameters(), lr=lr)
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            loss = criterion(net(images.to(DEVICE)), labels.to(DEVICE)) + penalty()
            loss.backward()
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
    pictures, _ = data.load(args.dataset_path, limit=args.limit)
    trainset, testset = own_pictures(pictures, args.split)
    trainloader = data.Loader(trainset, args.batch_size, shuffle=True)
    testloader = data.Loader(testset, 500)
    net, personal = Net().to(DEVICE), Net().to(DEVICE)
    steps = args.local_epochs * len(trainloader)
    writer = SummaryWriter()

    while flare.is_running():
        input_model = flare.receive()
        if input_model.params:  # none if the script is started by hand
            net.load_state_dict(input_model.params)
        accuracy = evaluate(net, testloader)
        if flare.is_evaluate():
            flare.send(flare.FLModel(metrics={"accuracy": accuracy}))
            continue

        ditto = Ditto(personal, input_model.params or net.state_dict(), lam=args.lam)
        train(personal, trainloader, args.local_epochs, args.lr, ditto.penalty)
        ditto.keep()
        train(net, trainloader, args.local_epochs, args.lr, lambda: 0)

        own = evaluate(personal, testloader)
        print(
            f"({site}) on this site's own pictures: the received model {accuracy:.2f} %, the personal one {own:.2f} %"
        )
        writer.add_scalar("personal_accuracy", own, global_step=input_model.current_round)
        metrics = {"accuracy": accuracy, "personal_accuracy": own}
        flare.send(flare.FLModel(params=net.state_dict(), metrics=metrics, meta={"NUM_STEPS_CURRENT_ROUND": steps}))


if __name__ == "__main__":
    main()
