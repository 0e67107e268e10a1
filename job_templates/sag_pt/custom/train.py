"""Train the PyTorch tutorial's network on CIFAR-10, as one client of a federation."""

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
    parser.add_argument("--model_path", help="where the best local model is saved (default: cifar_net_SITE.pth)")
    parser.add_argument("--split", help="train on a part: iid, shards or dirichlet:ALPHA (default: on all data)")
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
    pictures, testset = data.load(args.dataset_path, limit=args.limit)
    testloader = data.Loader(testset, 500)
    net = Net()
    writer = SummaryWriter()

    while flare.is_running():
        input_model = flare.receive()
        site = flare.get_site_name()
        model_path = args.model_path or f"cifar_net_{site}.pth"
        if flare.is_submit_model():
            flare.send(flare.FLModel(params=torch.load(model_path, weights_only=True)))
            continue

        print(f"({site}) current_round={input_model.current_round}, total_rounds={input_model.total_rounds}")
        if input_model.params:  # none if the script is started by hand
            net.load_state_dict(input_model.params)
        received_accuracy = evaluate(net, testloader)
        print(f"({site}) Accuracy of the received model on the {len(testset)} test images: {received_accuracy:.2f} %")
        if flare.is_evaluate():
            flare.send(flare.FLModel(metrics={"accuracy": received_accuracy}))
            continue

        trainset = pictures
        if args.split:
            trainset = data.some(pictures, flare.partition(pictures.labels, **data.way(args.split)))
        trainloader = data.Loader(trainset, args.batch_size, shuffle=True, num_workers=args.num_workers)
        train(net, trainloader, args.local_epochs, f"({site}) ")

        accuracy = evaluate(net, testloader)
        print(f"({site}) Accuracy of the network on the {len(testset)} test images: {accuracy:.2f} %")
        writer.add_scalar("local_accuracy", accuracy, global_step=input_model.current_round)
        if accuracy > flare.state.get("best_accuracy", -1.0):
            flare.state["best_accuracy"] = accuracy
            torch.save(net.state_dict(), model_path)

        flare.send(
            flare.FLModel(
                params=net.cpu().state_dict(),
                metrics={"accuracy": received_accuracy},
                meta={"NUM_STEPS_CURRENT_ROUND": args.local_epochs * len(trainloader)},
            )
        )


if __name__ == "__main__":
    main()
