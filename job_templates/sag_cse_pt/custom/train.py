"""Train the PyTorch tutorial's network on CIFAR-10, as one client of a federation, and measure the models of others.

`flare.state` keeps the site's own models from task to task. It is saved with each round, so a resumed run has them.
"""

import argparse

import data
import torch
import torch.nn as nn
import torch.optim as optim
from net import Net

import fedsag_cli.client as flare
from fedsag_cli.client.tracking import SummaryWriter

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset_path", default=data.DATASET_PATH, help="the folder with CIFAR-10, see data.py")
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--num_workers", type=int, default=0, help="0 is fastest: the pictures are in memory")
    parser.add_argument("--local_epochs", type=int, default=2)
    parser.add_argument("--limit", type=int, default=0, help="use only so many pictures")
    parser.add_argument("--split", help="use this site's part only: iid, shards or dirichlet:ALPHA (default: all)")
    return parser.parse_args()


def train(net, loader, epochs, who=""):
    net.to(DEVICE).train()
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.SGD(net.parameters(), lr=0.001, momentum=0.9)
    for epoch in range(1, epochs + 1):
        running_loss, seen = 0.0, 0
        for step, (images, labels) in enumerate(loader, 1):
            optimizer.zero_grad()
            loss = criterion(net(images.to(DEVICE)), labels.to(DEVICE))
            loss.backward()
            optimizer.step()

            running_loss, seen = running_loss + loss.item(), seen + 1
            if step % 2000 == 0 or step == len(loader):
                print(f"{who}[{epoch}, {step:5d}] loss: {running_loss / seen:.3f}")
                running_loss, seen = 0.0, 0
    print(f"{who}Finished Training")


@torch.no_grad()
def evaluate(net, loader):
    net.to(DEVICE).eval()
    correct = sum((net(images.to(DEVICE)).argmax(1) == labels.to(DEVICE)).sum().item() for images, labels in loader)
    return 100 * correct / len(loader.dataset)


def main():
    args = parse_args()
    flare.init()
    pictures = data.load(args.dataset_path, limit=args.limit)
    net = Net()
    writer = SummaryWriter()

    while flare.is_running():
        input_model = flare.receive()
        if flare.is_submit_model():
            wanted = input_model.meta["submit_model_name"]  # best_model or final_model: what this site has kept
            flare.send(flare.FLModel(params=flare.state[wanted]))
            continue

        site = flare.get_site_name()
        trainset, testset = pictures
        if args.split:
            way = data.way(args.split)
            trainset, testset = (data.some(each, flare.partition(each.labels, **way)) for each in pictures)
        testloader = data.Loader(testset, 500)
        print(f"({site}) current_round={input_model.current_round}, total_rounds={input_model.total_rounds}")
        if input_model.params:  # none if the script is started by hand
            net.load_state_dict(input_model.params)
        received_accuracy = evaluate(net, testloader)
        print(f"({site}) Accuracy of the received model on the {len(testset)} test images: {received_accuracy:.2f} %")
        if flare.is_evaluate():
            flare.send(flare.FLModel(metrics={"accuracy": received_accuracy}))
            continue

        trainloader = data.Loader(trainset, args.batch_size, shuffle=True, num_workers=args.num_workers)
        train(net, trainloader, args.local_epochs, f"({site}) ")

        accuracy = evaluate(net, testloader)
        print(f"({site}) Accuracy of the network on the {len(testset)} test images: {accuracy:.2f} %")
        writer.add_scalar("local_accuracy", accuracy, global_step=input_model.current_round)
        trained = net.cpu().state_dict()
        flare.state["final_model"] = {name: value.clone() for name, value in trained.items()}
        if accuracy > flare.state.get("best_accuracy", -1.0):
            flare.state["best_accuracy"], flare.state["best_model"] = accuracy, flare.state["final_model"]

        flare.send(
            flare.FLModel(
                params=trained,
                metrics={"accuracy": received_accuracy},
                meta={"NUM_STEPS_CURRENT_ROUND": args.local_epochs * len(trainloader)},
            )
        )


if __name__ == "__main__":
    main()
