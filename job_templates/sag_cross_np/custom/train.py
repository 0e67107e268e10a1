"""Each site pulls the model towards a number of its own, without PyTorch, and measures how far any model is from it."""

import argparse
import re

import numpy as np

import fedsag_cli.client as flare


def loss_of(params, target):
    """The mean squared distance to the site's number."""
    return float(np.mean([np.mean((array - target) ** 2) for array in params.values()]))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lr", type=float, default=0.5, help="how far the model moves in one round: 1 is all the way")
    args = parser.parse_args()

    flare.init()
    while flare.is_running():
        input_model = flare.receive()
        site = flare.get_site_name()
        number = re.search(r"\d+$", site)
        target = 10.0 * int(number[0]) if number else 0.0  # site-1 has 10, site-2 has 20, and so on
        if flare.is_submit_model():
            wanted = input_model.meta["submit_model_name"]  # best_model or final_model: what this site has kept
            flare.send(flare.FLModel(params=flare.state[wanted]))
            continue

        metrics = {"loss": loss_of(input_model.params, target)}
        if flare.is_evaluate():
            flare.send(flare.FLModel(metrics=metrics))
            continue

        print(f"({site}) current_round={input_model.current_round}, total_rounds={input_model.total_rounds}")
        trained = {
            name: array + array.dtype.type(args.lr) * (array.dtype.type(target) - array)
            for name, array in input_model.params.items()
        }
        loss = loss_of(trained, target)
        flare.state["final_model"] = trained
        if loss < flare.state.get("best_loss", float("inf")):
            flare.state["best_loss"], flare.state["best_model"] = loss, trained
        flare.send(flare.FLModel(params=trained, metrics=metrics, meta={"NUM_STEPS_CURRENT_ROUND": 1}))


if __name__ == "__main__":
    main()
