"""NVFLARE's NPTrainer and NPValidator as a script with the Client API: an example without real training.

To train, it adds `delta` to the job's one array and stores the array beside the app. To submit a model, it sends the
stored array. To validate, it returns sum(x / max(x)) + u of the array, with a random u from [0, 1).
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import numpy as np

import fedsag_cli.client as flare
from fedsag_cli.errors import ClientError
from fedsag_cli.interop.constants import NPConstants

KEY = NPConstants.NUMPY_KEY
log = logging.getLogger("np_trainer")


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = _options()
    stored = Path("..", options.model_dir, options.model_name)
    flare.init()
    while flare.is_running():
        model = flare.receive()
        assert model is not None  # is_running() was True
        time.sleep(options.validate_sleep_time if flare.is_evaluate() else options.sleep_time)
        if flare.is_submit_model():
            flare.send(flare.FLModel(params={KEY: np.load(stored, allow_pickle=False)}))
        elif flare.is_evaluate():
            array = _array(model)
            accuracy = float(np.sum(array / np.max(array)) + np.random.random())
            log.info("accuracy %g", accuracy)
            flare.send(flare.FLModel(metrics={"accuracy": accuracy}))
        else:
            array = _array(model) + options.delta
            stored.parent.mkdir(parents=True, exist_ok=True)
            np.save(stored, array, allow_pickle=False)
            log.info("round %s of %s: added %s", model.current_round, model.total_rounds, options.delta)
            params = {**(model.params or {}), KEY: array}
            flare.send(flare.FLModel(params=params, meta={"NUM_STEPS_CURRENT_ROUND": 1}))


def _array(model: flare.FLModel) -> np.ndarray:
    params = model.params or {}
    if KEY not in params:
        raise ClientError(f"the model has no {KEY!r}, but {sorted(params)}", hint="give the job an NPModelPersistor")
    return np.asarray(params[KEY])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delta", type=_number, default=1, help="number to add to the array")
    parser.add_argument("--sleep_time", type=float, default=0.0, help="seconds to wait before training")
    parser.add_argument("--validate_sleep_time", type=float, default=0.0, help="seconds to wait before validation")
    parser.add_argument("--model_dir", type=_inside, default="model", help="folder for the trained array")
    parser.add_argument("--model_name", type=_inside, default="best_numpy.npy", help="file name of the trained array")
    return parser.parse_args()


def _number(text: str) -> float:
    """An int if possible: an array of whole numbers accepts only whole numbers."""
    try:
        return int(text)
    except ValueError:
        return float(text)


def _inside(text: str) -> str:
    if Path(text).is_absolute() or ".." in Path(text).parts:
        raise argparse.ArgumentTypeError(f"{text!r} is outside the run's folder")
    return text


if __name__ == "__main__":
    main()
