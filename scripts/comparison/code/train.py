"""Changes every number in a way that site, round and key alone decide, and answers when it is this site's turn."""

import argparse
import time
from pathlib import Path

import numpy as np

import fedsag_cli.client as flare


def change(shape, seed):
    """float32 numbers between -0.5 and 0.5, by integer arithmetic: no library's rounding is in them."""
    numbers = np.arange(1, int(np.prod(shape)) + 1, dtype=np.int64)
    return ((numbers * 7919 * (seed + 1) + 104729 * seed) % 9973 / 9973 - 0.5).astype(np.float32).reshape(shape)


def trained(value, index, site, round_num):
    as_array = value if isinstance(value, np.ndarray) else value.numpy()
    new = as_array + change(as_array.shape, 31 * site + 7 * index + 3 * round_num)
    return new if isinstance(value, np.ndarray) else type(value)(new)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--turns", type=Path, required=True, help="a folder in which sites see whose turn it is")
    parser.add_argument("--order", default="1,2,3", help="of the sites, by their numbers")
    parser.add_argument("--steps", default="1,1,1", help="by site")
    parser.add_argument("--partial", action="store_true", help="each site leaves out some keys")
    parser.add_argument("--scaffold", action="store_true", help="params follow the server's control variate")
    args = parser.parse_args()
    order = args.order.split(",")

    flare.init()
    site = int(flare.get_site_name().rpartition("-")[2])
    while flare.is_running():
        model = flare.receive()
        round_num = model.current_round
        params = {
            name: trained(value, index, site, round_num)
            for index, (name, value) in enumerate(model.params.items())
            if not args.partial or index % 3 != site - 1
        }
        meta = {"NUM_STEPS_CURRENT_ROUND": int(args.steps.split(",")[site - 1])}
        if args.scaffold:
            c = model.meta["scaffold_c_global"]
            params = {name: value + type(value)(np.asarray(c[name])) for name, value in params.items()}
            meta["scaffold_c_diff"] = {
                name: change(value.shape, 17 * site + 5 * index + round_num)
                for index, (name, value) in enumerate(params.items())
            }
        for before in order[: order.index(str(site))]:
            while not (args.turns / f"{round_num}-{before}").exists():
                time.sleep(0.02)
            time.sleep(1)  # the answer of the one before has to arrive, too
        flare.send(flare.FLModel(params=params, metrics={"accuracy": site + round_num}, meta=meta))
        (args.turns / f"{round_num}-{site}").touch()


if __name__ == "__main__":
    main()
