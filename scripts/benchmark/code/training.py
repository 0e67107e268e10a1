"""One client's local training, the same for every system: random CIFAR-shaped pictures, plain SGD, one thread."""

import functools

import torch
import torch.nn.functional as F  # noqa: N812 - everyone's name for it

BATCH_SIZE = 6


@functools.cache
def pictures(number, count):
    """`count` pictures and labels of client `number`: float32 [count, 3, 32, 32] and int64 [count]."""
    drawn = torch.Generator().manual_seed(number)
    return torch.randn(count, 3, 32, 32, generator=drawn), torch.randint(0, 10, (count,), generator=drawn)


def train(net, images, labels):
    """One epoch; gives the number of steps."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.001, momentum=0.9)
    for start in range(0, len(images), BATCH_SIZE):
        optimizer.zero_grad()
        F.cross_entropy(net(images[start : start + BATCH_SIZE]), labels[start : start + BATCH_SIZE]).backward()
        optimizer.step()
    return -(-len(images) // BATCH_SIZE)
