"""Train the PyTorch tutorial's network on CIFAR-10."""

import argparse

import data
import torch
import torch.nn as nn
import torch.optim as optim
from net import Net

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset_path", default=data.DATASET_PATH, help="the folder with CIFAR-10, see data.py")
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--num_workers", type=int, default=0, help="0 is fastest: the pictures are in memory")
    parser.add_argument("--local_epochs", type=int, default=2)
    parser.add_argument("--limit", type=int, default=0, help="use only so many pictures")
    parser.add_argument("--model_path", default="cifar_net.pth", help="where the model is saved")
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
    trainset, testset = data.load(args.dataset_path, limit=args.limit)
    trainloader = data.Loader(trainset, args.batch_size, shuffle=True, num_workers=args.num_workers)
    testloader = data.Loader(testset, 500)
    net = Net()

    train(net, trainloader, args.local_epochs)

    accuracy = evaluate(net, testloader)
    print(f"Accuracy of the network on the {len(testset)} test images: {accuracy:.2f} %")
    torch.save(net.state_dict(), args.model_path)


if __name__ == "__main__":
    main()
