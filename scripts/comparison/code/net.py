"""A network that is large enough for the order of additions to show in its last bits."""

import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(64, 32)
        self.second = torch.nn.Linear(32, 16)
        self.head = torch.nn.Linear(16, 10)
