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

SCRIPTS = {
    "sgd_fl.py": SGD,
    "kmeans_fl.py": KMEANS,
    "svm_fl.py": SVM,
    "xgboost_fl.py": TREES,
    "loader.py": LOADER,
    "df_statistics.py": TABLE,
    "image_statistics.py": IMAGES,
}
"""By the names that the templates start, or whose classes they name."""
