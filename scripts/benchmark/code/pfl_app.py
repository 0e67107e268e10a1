"""The same training with pfl. A program: NET PICTURES COHORTS FILE; torchrun makes several processes of it."""

import itertools
import json
import math
import sys
import types
from pathlib import Path

import net as nets
import torch
import torch.nn.functional as F  # noqa: N812 - everyone's name for it
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByUser
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.internal.ops.pytorch_ops import distributed
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from training import pictures, round_ended


class RoundsTold(TrainingProcessCallback):
    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):  # noqa: ARG002 - pfl's names
        round_ended()
        return False, Metrics()


def loss(net, images, labels):
    return F.cross_entropy(net(images), labels)


def main(net, count, cohorts, file):
    torch.set_num_threads(1)
    net.loss = types.MethodType(loss, net)
    net.metrics = None  # pfl wants the name, and calls it only to evaluate
    model = PyTorchModel(
        model=net,
        local_optimizer_create=lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=net.MOMENTUM),
        central_optimizer=torch.optim.SGD(net.parameters(), lr=1.0),
    )
    drawn = itertools.chain.from_iterable(cohorts)
    data = FederatedDataset(lambda number: Dataset(pictures(number, count), user_id=number), lambda: next(drawn))
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=len(cohorts),
            evaluation_frequency=math.nan,  # never: with any number it evaluates the first round
            train_cohort_size=len(cohorts[0]),
            val_cohort_size=None,
        ),
        backend=SimulatedBackend(training_data=data, val_data=data, postprocessors=[WeightByUser()]),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=net.LR, local_batch_size=net.BATCH_SIZE
        ),
        callbacks=[] if distributed.global_rank else [RoundsTold()],
    )
    if not distributed.global_rank:
        torch.save({"model": net.state_dict()}, file)


if __name__ == "__main__":
    main(getattr(nets, sys.argv[1])(), int(sys.argv[2]), json.loads(Path(sys.argv[3]).read_text()), sys.argv[4])
