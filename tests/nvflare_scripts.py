"""Scripts and classes as users of NVFLARE write them for its templates of other models and of statistics."""

HEAD = """
    import numpy as np
    from nvflare import client as flare

    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 1, (50, 2)), rng.normal(3, 1, (50, 2))])
    y = np.repeat([0, 1], 50)
    flare.init()
    while flare.is_running():
        received = flare.receive()
        params, is_first = received.params, received.current_round == 0
"""

SGD = f"""
    from sklearn.linear_model import SGDClassifier
{HEAD}
        if is_first:
            model = SGDClassifier(loss=params["loss"], penalty=params["penalty"], eta0=params["eta0"],
                                  learning_rate=params["learning_rate"], max_iter=1, warm_start=True)
            model.classes_ = np.arange(params["n_classes"])
            model.coef_, model.intercept_ = np.zeros((1, 2)), np.zeros(1)
        else:
            model.coef_, model.intercept_ = params["coef"], params["intercept"]
        metrics = {{"accuracy": model.score(x, y)}}
        model.fit(x, y)
        flare.send(flare.FLModel(params={{"coef": model.coef_, "intercept": model.intercept_}}, metrics=metrics))
"""

KMEANS = f"""
    from sklearn.cluster import MiniBatchKMeans, kmeans_plusplus
{HEAD}
        if is_first:
            n_clusters = params["n_clusters"]
            center, _ = kmeans_plusplus(x, n_clusters=n_clusters)
            answer = {{"center": center, "count": None}}
        else:
            model = MiniBatchKMeans(n_clusters, batch_size=len(x), max_iter=1, init=params["center"], n_init=1).fit(x)
            answer = {{"center": model.cluster_centers_, "count": model._counts}}
        flare.send(flare.FLModel(params=answer, metrics={{"accuracy": 0.0}}))
"""

SVM = f"""
    from sklearn.svm import SVC
{HEAD}
        if is_first:
            model = SVC(kernel=params["kernel"]).fit(x, y)
        else:
            model.fit(params["support_x"], params["support_y"])
        own = {{"support_x": x[model.support_], "support_y": y[model.support_]}}
        flare.send(flare.FLModel(params=own, metrics={{"accuracy": model.score(x, y)}}))
"""

TREES = f"""
    import xgboost as xgb
{HEAD}
        settings = {{"objective": "binary:logistic", "base_score": 0.5, "eta": 0.05, "max_depth": 2, "nthread": 1}}
        model = None if is_first else xgb.Booster(settings, model_file=bytearray(params["model_data"]))
        before = 0 if is_first else model.num_boosted_rounds()
        accuracy = 0.5 if is_first else float(((model.predict(xgb.DMatrix(x)) > 0.5) == y).mean())
        model = xgb.train(settings, xgb.DMatrix(x, label=y), 1, xgb_model=model)
        new_trees = model[before:].save_raw("json")
        flare.send(flare.FLModel(params={{"model_data": new_trees}}, metrics={{"accuracy": accuracy}}))
"""

LOADER = """
    import numpy as np
    import xgboost as xgb
    from nvflare.app_opt.xgboost.data_loader import XGBDataLoader


    class Loader(XGBDataLoader):
        def __init__(self, rows):
            self.rows = rows

        def load_data(self):
            rng = np.random.default_rng(self.rank)
            x = rng.normal(size=(self.rows, 3))
            data = xgb.DMatrix(x, label=(x[:, 0] > 0).astype(int))
            return data, data
"""

TABLE = """
    import pandas
    from nvflare.apis.fl_context import FLContext
    from nvflare.app_opt.statistics.df.df_core_statistics import DFStatisticsCore


    class DFStatistics(DFStatisticsCore):
        def __init__(self, data_path):
            super().__init__()
            self.data_path = data_path

        def initialize(self, fl_ctx: FLContext):
            site = int(fl_ctx.get_identity_name()[-1])
            self.log_info(fl_ctx, f"{self.data_path} of site {site}")
            self.data = {"train": pandas.DataFrame({"Age": range(site, 200 + site)})}
"""

IMAGES = """
    import numpy as np
    from nvflare.app_common.abstract.statistics_spec import BinRange, DataType, Feature, Histogram, HistogramType
    from nvflare.app_common.abstract.statistics_spec import Statistics
    from nvflare.app_common.statistics.numpy_utils import get_std_histogram_buckets


    class ImageStatistics(Statistics):
        def __init__(self, data_root):
            super().__init__()
            self.pixels = np.arange(200)

        def features(self):
            return {"train": [Feature("intensity", DataType.FLOAT)]}

        def count(self, dataset_name, feature_name):
            return 20

        def histogram(self, dataset_name, feature_name, num_of_bins, global_min_value, global_max_value):
            wide = BinRange(global_min_value, global_max_value)
            return Histogram(HistogramType.STANDARD, get_std_histogram_buckets(self.pixels, num_of_bins, wide))
"""

EXECUTOR = """
    import os

    import torch
    from net import Net
    from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
    from nvflare.apis.event_type import EventType
    from nvflare.apis.executor import Executor
    from nvflare.apis.fl_constant import ReservedKey, ReturnCode
    from nvflare.apis.fl_context import FLContext
    from nvflare.apis.shareable import Shareable, make_reply
    from nvflare.apis.signal import Signal
    from nvflare.app_common.abstract.model import make_model_learnable, model_learnable_to_dxo
    from nvflare.app_common.app_constant import AppConstants
    from nvflare.app_opt.pt.model_persistence_format_manager import PTModelPersistenceFormatManager


    class CIFAR10Executor(Executor):
        def __init__(self, epochs: int = 2, lr: float = 0.01):
            super().__init__()
            self.epochs, self.lr = epochs, lr

        def handle_event(self, event_type: str, fl_ctx: FLContext):
            if event_type == EventType.START_RUN:
                self.net = Net()

        def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
            if task_name == AppConstants.TASK_GET_WEIGHTS:
                return self.weights()
            run_dir = fl_ctx.get_engine().get_workspace().get_run_dir(fl_ctx.get_prop(ReservedKey.RUN_NUM))
            kept = os.path.join(run_dir, "models", "own.pt")
            if task_name == AppConstants.TASK_SUBMIT_MODEL:
                manager = PTModelPersistenceFormatManager(data=torch.load(kept))
                return model_learnable_to_dxo(manager.to_model_learnable(exclude_vars=None)).to_shareable()
            dxo = from_shareable(shareable)
            if dxo.data_kind != DataKind.WEIGHTS:
                return make_reply(ReturnCode.BAD_TASK_DATA)
            if task_name == AppConstants.TASK_VALIDATION:
                owner = shareable.get_header(AppConstants.MODEL_OWNER, "?")
                self.log_info(fl_ctx, f"{fl_ctx.get_identity_name()} measures the model of {owner}")
                return DXO(data_kind=DataKind.METRICS, data={"val_acc": 0.5}).to_shareable()
            self.net.load_state_dict({k: torch.as_tensor(v) + self.lr for k, v in dxo.data.items()})
            os.makedirs(os.path.dirname(kept), exist_ok=True)
            manager = PTModelPersistenceFormatManager(data=self.net.state_dict(), default_train_conf={"train": {}})
            manager.update(make_model_learnable(self.net.state_dict(), {}))
            torch.save(manager.to_persistence_dict(), kept)
            return make_reply(ReturnCode.TASK_ABORTED) if abort_signal.triggered else self.weights()

        def weights(self) -> Shareable:
            weights = {k: v.cpu().numpy() for k, v in self.net.state_dict().items()}
            meta = {MetaKey.NUM_STEPS_CURRENT_ROUND: self.epochs}
            return DXO(data_kind=DataKind.WEIGHTS, data=weights, meta=meta).to_shareable()
"""

LEARNER = """
    import copy

    import torch
    from nvflare.apis.dxo import MetaKey
    from nvflare.apis.fl_constant import FLMetaKey, ReturnCode
    from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
    from nvflare.app_common.abstract.model_learner import ModelLearner
    from nvflare.app_common.app_constant import ModelName, ValidateType
    from nvflare.app_common.utils.fl_model_utils import FLModelUtils
    from pt.networks.cifar10_nets import ModerateCNN


    class CIFAR10ModelLearner(ModelLearner):
        def __init__(self, lr: float = 0.01, **settings):
            super().__init__()
            self.lr, self.best = lr, None

        def initialize(self):
            self.info(f"Client {self.site_name} initialized at {self.app_root}")
            self.model = ModerateCNN()

        def train(self, model: FLModel) -> FLModel:
            self.info(f"Current/Total Round: {self.current_round + 1}/{self.total_rounds}")
            if self.is_aborted():
                return ReturnCode.TASK_ABORTED
            self.model.load_state_dict({k: torch.as_tensor(v) for k, v in model.params.items()})
            before = copy.deepcopy(self.model.state_dict())
            with torch.no_grad():
                for value in self.model.parameters():
                    value += self.lr
            self.best = {k: v.cpu().numpy() for k, v in self.model.state_dict().items()}
            diff = {k: self.best[k] - before[k].numpy() for k in self.best}
            trained = FLModel(params_type=ParamsType.DIFF, params=diff)
            FLModelUtils.set_meta_prop(trained, FLMetaKey.NUM_STEPS_CURRENT_ROUND, 3)
            return trained

        def get_model(self, model_name: str) -> FLModel:
            return FLModel(params=self.best) if model_name == ModelName.BEST_MODEL else ReturnCode.MODEL_UNRECOGNIZED

        def validate(self, model: FLModel) -> FLModel:
            kind = FLModelUtils.get_meta_prop(model, MetaKey.VALIDATE_TYPE)
            self.info(f"validates: {kind == ValidateType.BEFORE_TRAIN_VALIDATE}")
            return FLModel(metrics={"val_accuracy": float(sum(abs(v).sum() for v in model.params.values()))})
"""

SPLITTER = """
    from nvflare.apis.event_type import EventType
    from nvflare.apis.fl_component import FLComponent
    from nvflare.apis.fl_context import FLContext


    class Cifar10DataSplitter(FLComponent):
        def __init__(self, split_dir: str, num_sites: int = 8, alpha: float = 0.5, seed: int = 0):
            super().__init__()
            self.num_sites = num_sites

        def handle_event(self, event_type: str, fl_ctx: FLContext):
            if event_type == EventType.START_RUN:
                self.log_info(fl_ctx, f"splits for {self.num_sites} sites")
"""

NETS = """
    import torch


    class ModerateCNN(torch.nn.Linear):
        def __init__(self):
            super().__init__(2, 1)
"""

SCRIPTS = {
    "sgd_fl.py": SGD,
    "kmeans_fl.py": KMEANS,
    "svm_fl.py": SVM,
    "xgboost_fl.py": TREES,
    "loader.py": LOADER,
    "df_statistics.py": TABLE,
    "image_statistics.py": IMAGES,
    "executor.py": EXECUTOR,
    "pt/learners/cifar10_model_learner.py": LEARNER,
    "pt/networks/cifar10_nets.py": NETS,
    "pt/utils/cifar10_data_splitter.py": SPLITTER,
}
"""By the names that the templates start, or whose classes they name."""
