"""Train a linear classifier of points in the plane, as one client of a federation in which some may attack."""

import argparse

import numpy as np

import fedsag_cli.client as flare

CENTRES = np.array([[0.0, 2.0], [-2.0, -1.0], [2.0, -1.0]])  # of three classes


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_points", type=int, default=200, help="points of each site")
    parser.add_argument("--local_steps", type=int, default=20, help="steps of gradient descent in each round")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--flip_labels", nargs="*", default=[], metavar="SITE", help="sites that learn wrong labels")
    return parser.parse_args()


def points(num_points, seed):
    """Points (n, 2) around the centres, and the class of each."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(CENTRES), num_points)
    return CENTRES[labels] + rng.normal(0.0, 0.8, (num_points, 2)), labels


def probabilities(weight, bias, inputs):
    scores = inputs @ weight + bias
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def train(weight, bias, inputs, labels, steps, lr):
    wanted = np.eye(len(bias))[labels]
    for _ in range(steps):
        error = (probabilities(weight, bias, inputs) - wanted) / len(labels)
        weight, bias = weight - lr * inputs.T @ error, bias - lr * error.sum(axis=0)
    return weight, bias


def main():
    args = parse_args()
    flare.init()
    test_inputs, test_labels = points(1000, seed=0)  # the same for all sites

    while flare.is_running():
        input_model = flare.receive()
        site = flare.get_site_name()
        weight, bias = input_model.params["weight"], input_model.params["bias"]
        accuracy = 100 * np.mean(probabilities(weight, bias, test_inputs).argmax(axis=1) == test_labels)
        print(f"({site}) round {input_model.current_round}: accuracy of the received model {accuracy:.1f} %")
        metrics = {"accuracy": float(accuracy)}
        if flare.is_evaluate():
            flare.send(flare.FLModel(metrics=metrics))
            continue

        inputs, labels = points(args.num_points, seed=[*site.encode()])
        if site in args.flip_labels:
            labels = len(CENTRES) - 1 - labels
        weight, bias = train(weight, bias, inputs, labels, args.local_steps, args.lr)
        flare.send(
            flare.FLModel(
                params={"weight": weight.astype(np.float32), "bias": bias.astype(np.float32)},
                metrics=metrics,
                meta={"NUM_STEPS_CURRENT_ROUND": args.local_steps},
            )
        )


if __name__ == "__main__":
    main()
