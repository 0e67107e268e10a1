"""A support vector machine on a site's part of the breast cancer data of scikit-learn."""

import argparse
import sys

from sites import part_of

import fedsag_cli.client as flare

try:
    from sklearn.datasets import load_breast_cancer
    from sklearn.metrics import roc_auc_score
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC
except ModuleNotFoundError as error:
    sys.exit(f"error: {error.name} is not installed: pip install 'fedsag[sklearn]'")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_sites", type=int, default=2, help="number of parts of the data")
    args = parser.parse_args()

    flare.init()
    site = flare.get_site_name()
    (x, y), (x_test, y_test) = part_of(*load_breast_cancer(return_X_y=True), site, args.num_sites)
    scaler = StandardScaler().fit(x)
    x, x_test = scaler.transform(x), scaler.transform(x_test)

    settings = None
    while flare.is_running():
        received = flare.receive()
        settings = settings or received.meta.get("initial_params") or received.params
        model = SVC(kernel=settings["kernel"])
        if "support_x" in received.params:
            model.fit(received.params["support_x"], received.params["support_y"])
        else:
            model.fit(x, y)
        metrics = {
            "auc": roc_auc_score(y_test, model.decision_function(x_test)),
            "accuracy": model.score(x_test, y_test),
        }
        print(f"({site}) round {received.current_round}: AUC {metrics['auc']:.4f}")
        if flare.is_evaluate():
            flare.send(flare.FLModel(metrics=metrics))
        elif "support_x" in received.params:  # the vectors of all sites: nothing to add
            flare.send(flare.FLModel(params=received.params, metrics=metrics))
        else:
            flare.send(flare.FLModel(params={"support_x": x[model.support_], "support_y": y[model.support_]}))


if __name__ == "__main__":
    main()
