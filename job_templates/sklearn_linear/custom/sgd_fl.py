"""Logistic regression by stochastic gradient descent on a site's part of the breast cancer data of scikit-learn."""

import argparse
import sys

import numpy as np
from sites import part_of

import fedsag_cli.client as flare

try:
    from sklearn.datasets import load_breast_cancer
    from sklearn.linear_model import SGDClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.preprocessing import StandardScaler
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
        model = make(settings, num_features=x.shape[1])
        model.coef_ = received.params.get("coef", model.coef_)
        model.intercept_ = received.params.get("intercept", model.intercept_)
        metrics = {
            "auc": roc_auc_score(y_test, model.decision_function(x_test)),
            "accuracy": model.score(x_test, y_test),
        }
        print(f"({site}) round {received.current_round}: AUC of the received model {metrics['auc']:.4f}")
        if flare.is_evaluate():
            flare.send(flare.FLModel(metrics=metrics))
            continue
        model.fit(x, y)
        flare.send(
            flare.FLModel(
                params={"coef": model.coef_, "intercept": model.intercept_},
                metrics=metrics,
                meta={"NUM_STEPS_CURRENT_ROUND": len(x)},
            )
        )


def make(settings, num_features):
    """A model of zeros that goes on from its own coefficients at each fit, for one epoch."""
    model = SGDClassifier(
        loss=settings["loss"],
        penalty=settings["penalty"],
        fit_intercept=settings["fit_intercept"],
        learning_rate=settings["learning_rate"],
        eta0=settings["eta0"],
        max_iter=1,
        tol=None,
        warm_start=True,
    )
    model.classes_ = np.arange(settings["n_classes"])
    model.coef_, model.intercept_ = np.zeros((1, num_features)), np.zeros(1)
    return model


if __name__ == "__main__":
    main()
