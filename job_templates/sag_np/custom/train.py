"""Add a number to every array that comes in: the least a client can do, without PyTorch."""

import argparse

import numpy as np

import fedsag_cli.client as flare


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delta", type=float, default=1.0, help="what to add")
    args = parser.parse_args()

    flare.init()
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

        flare.send(
            flare.FLModel(
                params={name: array + array.dtype.type(args.delta) for name, array in received.items()},
                metrics=metrics,
                meta={"NUM_STEPS_CURRENT_ROUND": 1},
            )
        )


if __name__ == "__main__":
    main()
