"""The nets of the benchmarks, and how each is trained: BATCH_SIZE, LR and MOMENTUM of its SGD.

Their first weights are the same in every process: all systems do the same work.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F  # noqa: N812 - everyone's name for it


class Net(nn.Module):
    """The convolutional network of PyTorch's CIFAR-10 tutorial: 62,006 parameters, 3x32x32 pictures, 10 classes."""

    BATCH_SIZE = 6
    LR, MOMENTUM = 0.001, 0.9

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)
        drawn = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-0.08, 0.08, generator=drawn)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(torch.flatten(x, 1)))
        return self.fc3(F.relu(self.fc2(x)))


class Cnn(nn.Module):
    """The network of pfl's CIFAR-10 benchmark: 1,626,442 parameters, 3x32x32 pictures, 10 classes.

    Without its dropout: each system would draw other units.
    """

    BATCH_SIZE = 10
    LR, MOMENTUM = 0.01, 0.0

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.fc1 = nn.Linear(64 * 14 * 14, 128)
        self.fc2 = nn.Linear(128, 10)
        drawn = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for layer in self.children():
                layer.weight.uniform_(-1, 1, generator=drawn).div_(layer.weight[0].numel() ** 0.5)
                layer.bias.zero_()

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(x)))), 2)
        return self.fc2(F.relu(self.fc1(torch.flatten(x, 1))))


class Big(nn.Module):
    """256 MB of float32 in 16 tensors, and nothing to do."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ParameterList([nn.Parameter(torch.ones(1 << 22)) for _ in range(16)])
