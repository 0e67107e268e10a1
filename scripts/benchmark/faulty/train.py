"""A client that fails as its argument says: site-2 alone, and it writes down when. `work`: both sites go on and on."""

import os
import signal
import sys
import time
from pathlib import Path

import fedsag_cli.client as flare

_LONG_S = 600.0


def fail(how):
    Path("fault.txt").write_text(repr(time.time()))
    if how == "raise":
        raise ValueError("as it was told")
    if how == "exit":
        sys.exit(3)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "end":
        sys.exit(0)
    time.sleep(_LONG_S)


flare.init()
while flare.is_running():
    model = flare.receive()
    if sys.argv[1] == "work" or flare.get_site_name() == "site-2":
        fail(sys.argv[1])
    flare.send(flare.FLModel(params=model.params, metrics={"accuracy": 0.0}))
