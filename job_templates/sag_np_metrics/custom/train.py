"""Add a number to every array that comes in, a little at a time, and log how far that is."""

import argparse

import numpy as np

import fedsag_cli.client as flare
from fedsag_cli.client.tracking import SummaryWriter

STEPS = 10


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delta", type=float, default=1.0, help="what to add")
    args = parser.parse_args()

    flare.init()
    writer = SummaryWriter()
    while flare.is_running():
        input_model = flare.receive()
        site = flare.get_site_name()
        print(f"({site}) current_round={input_model.current_round}, total_rounds={input_model.total_rounds}")

        received = input_model.params or {"numpy_key": np.zeros((3, 3), np.float32)}  # none if started by hand

        # a stand-in for a measurement of the received model
        metrics = {"accuracy": float(np.mean([array.mean() for array in received.values()]))}
        if flare.is_evaluate():
            flare.send(flare.FLModel(metrics=metrics))
            continue

        params = dict(received)
        for step in range(STEPS):
            params = {name: array + array.dtype.type(args.delta / STEPS) for name, array in params.items()}
            mean = float(np.mean([array.mean() for array in params.values()]))
            writer.add_scalar("mean", mean, global_step=input_model.current_round * STEPS + step)

        flare.send(flare.FLModel(params=params, metrics=metrics, meta={"NUM_STEPS_CURRENT_ROUND": STEPS}))


if __name__ == "__main__":
    main()
