"""Logistic regression on a site's own examples. The server adds noise to the sites' updates.

The examples are drawn at random. All sites have the same true weights and the same test set. With more clients, the
same noise matters less: try `fedsag simulator JOB -n 50 -t 2`.
"""

import argparse
import zlib

import numpy as np

import fedsag_cli.client as flare


def examples(seed, number, features):
    """Features with a column of ones for the bias, and labels of 0 and 1."""
    weights = np.linspace(-2, 2, features + 1)
    rng = np.random.default_rng(seed)
    x = np.hstack([rng.standard_normal((number, features)), np.ones((number, 1))])
    return x, (x @ weights + 0.3 * rng.standard_normal(number) > 0).astype(float)


def train(weights, x, y, steps, lr):
    for _ in range(steps):
        probability = 1 / (1 + np.exp(-x @ weights))
        weights = weights - lr * x.T @ (probability - y) / len(y)
    return weights


def accuracy(weights, x, y):
    return 100 * float(np.mean((x @ weights > 0) == y))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=200, help="examples of each site")
    parser.add_argument("--steps", type=int, default=20, help="steps of gradient descent in each round")
    parser.add_argument("--lr", type=float, default=0.5, help="learning rate")
    args = parser.parse_args()

    flare.init()
    while flare.is_running():
        input_model = flare.receive()
        site = flare.get_site_name()
        weights = input_model.params["numpy_key"]
        test = examples(0, 1000, weights.size - 1)
        metrics = {"accuracy": accuracy(weights[0], *test)}
        print(f"({site}) round {input_model.current_round}: accuracy of the received model {metrics['accuracy']:.1f} %")
        if flare.is_evaluate():
            flare.send(flare.FLModel(metrics=metrics))
            continue

        mine = examples(1 + zlib.crc32(site.encode()), args.samples, weights.size - 1)
        trained = train(weights[0], *mine, args.steps, args.lr)
        flare.send(
            flare.FLModel(
                params={"numpy_key": trained.astype(weights.dtype).reshape(weights.shape)},
                metrics=metrics,
                meta={"NUM_STEPS_CURRENT_ROUND": args.steps},
            )
        )


if __name__ == "__main__":
    main()
