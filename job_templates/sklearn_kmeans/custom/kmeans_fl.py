"""Mini-batch k-means on a site's part of the iris data of scikit-learn."""

import argparse
import sys

from sites import part_of

import fedsag_cli.client as flare

try:
    import numpy as np
    from sklearn.cluster import KMeans
    from sklearn.datasets import load_iris
    from sklearn.metrics import homogeneity_score, pairwise_distances_argmin
except ModuleNotFoundError as error:
    sys.exit(f"error: {error.name} is not installed: pip install 'fedsag[sklearn]'")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_sites", type=int, default=2, help="number of parts of the data")
    args = parser.parse_args()

    flare.init()
    site = flare.get_site_name()
    (x, _), (x_test, y_test) = part_of(*load_iris(return_X_y=True), site, args.num_sites)

    while flare.is_running():
        received = flare.receive()
        if "center" not in received.params:
            own = KMeans(received.params["n_clusters"], n_init=10).fit(x)
            flare.send(flare.FLModel(params={"center": own.cluster_centers_}))
            continue
        center = received.params["center"]
        metrics = {"homogeneity": homogeneity_score(y_test, pairwise_distances_argmin(x_test, center))}
        print(f"({site}) round {received.current_round}: homogeneity {metrics['homogeneity']:.4f}")
        if flare.is_evaluate():
            flare.send(flare.FLModel(metrics=metrics))
        else:
            flare.send(flare.FLModel(params=assigned(x, center), metrics=metrics))


def assigned(x, center):
    """The mean and the number of the examples nearest to each centre; a centre without any stays where it is."""
    nearest = pairwise_distances_argmin(x, center)
    count = np.bincount(nearest, minlength=len(center)).astype(float)
    means = [x[nearest == j].mean(axis=0) if count[j] else center[j] for j in range(len(center))]
    return {"center": np.stack(means), "count": count}


if __name__ == "__main__":
    main()
