"""A client that knows whose pictures it trains on when its task has come. Arguments: the net, the pictures a client."""

import sys

import net as nets
import torch
from training import pictures, train

import fedsag_cli.client as flare

torch.set_num_threads(1)
net, count = getattr(nets, sys.argv[1])(), int(sys.argv[2])
flare.init()
while flare.is_running():
    net.load_state_dict(flare.receive().params)
    steps = train(net, *pictures(int(flare.get_site_name().rpartition("-")[2]), count))
    flare.send(
        flare.FLModel(params=net.state_dict(), metrics={"accuracy": 0.0}, meta={"NUM_STEPS_CURRENT_ROUND": steps})
    )
