"""A client that adds 1 to every parameter; site-1 sleeps for so many seconds first, as its argument says."""

import sys
import time

import torch

import fedsag_cli.client as flare

torch.set_num_threads(1)
flare.init()
while flare.is_running():
    model = flare.receive()
    if flare.get_site_name() == "site-1":
        time.sleep(float(sys.argv[1]))
    flare.send(flare.FLModel(params={name: value + 1 for name, value in model.params.items()}))
