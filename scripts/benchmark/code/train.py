"""A client that trains."""

import sys

import torch
from net import Net
from training import pictures, train

import fedsag_cli.client as flare

torch.set_num_threads(1)
flare.init()
images, labels = pictures(int(flare.get_site_name().rpartition("-")[2]), int(sys.argv[1]))
net = Net()
while flare.is_running():
    net.load_state_dict(flare.receive().params)
    steps = train(net, images, labels)
    flare.send(
        flare.FLModel(params=net.state_dict(), metrics={"accuracy": 0.0}, meta={"NUM_STEPS_CURRENT_ROUND": steps})
    )
