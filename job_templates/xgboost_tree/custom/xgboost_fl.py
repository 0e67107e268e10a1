"""Boosted trees on a site's part of the breast cancer data of scikit-learn: each round adds a tree of every site."""

import argparse
import sys

from sites import part_of

import fedsag_cli.client as flare

try:
    import xgboost as xgb
    from sklearn.datasets import load_breast_cancer
    from sklearn.metrics import roc_auc_score
except ModuleNotFoundError as error:
    sys.exit(f"error: {error.name} is not installed: pip install 'fedsag[xgboost]'")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_sites", type=int, default=2, help="number of parts of the data")
    parser.add_argument("--learning_rate", type=float, default=0.1, help="of all sites together")
    parser.add_argument("--max_depth", type=int, default=4)
    parser.add_argument("--mode", choices=["bagging", "cyclic"], default="bagging", help="cyclic: send all trees")
    args = parser.parse_args()
    settings = {
        "objective": "binary:logistic",
        "base_score": 0.5,  # else it is from the site's own labels, and the sites' trees do not go together
        "eta": args.learning_rate / (args.num_sites if args.mode == "bagging" else 1),
        "max_depth": args.max_depth,
        "nthread": 1,
    }

    flare.init()
    site = flare.get_site_name()
    (x, y), (x_test, y_test) = part_of(*load_breast_cancer(return_X_y=True), site, args.num_sites)
    train, test = xgb.DMatrix(x, label=y), xgb.DMatrix(x_test)

    while flare.is_running():
        received = flare.receive()
        model, metrics = None, {"auc": 0.5, "accuracy": 0.0}  # of no trees at all
        if received.params:
            model = xgb.Booster(settings, model_file=bytearray(received.params["model_data"]))
            chance = model.predict(test)
            metrics = {"auc": roc_auc_score(y_test, chance), "accuracy": float(((chance > 0.5) == y_test).mean())}
        print(f"({site}) round {received.current_round}: AUC of the received model {metrics['auc']:.4f}")
        if flare.is_evaluate():
            flare.send(flare.FLModel(metrics=metrics))
            continue
        before = model.num_boosted_rounds() if model and args.mode == "bagging" else 0
        trained = xgb.train(settings, train, num_boost_round=1, xgb_model=model)
        new_trees = bytes(trained[before:].save_raw("json"))
        flare.send(flare.FLModel(params={"model_data": new_trees}, metrics=metrics))


if __name__ == "__main__":
    main()
