"""The templates of other models and of statistics, as they are shipped, beside the same on the pooled data."""

import functools
import json
import os
import signal

import numpy as np
import pytest
from runs import Running, fedsag, run

NEEDS = {
    "sklearn_linear": "sklearn",
    "sklearn_kmeans": "sklearn",
    "sklearn_svm": "sklearn",
    "xgboost_tree": "xgboost",
    "stats_df": "palmerpenguins",
    "stats_image": "numpy",
}
FILES = {
    "stats_df": "statistics/stats.json",
    "stats_image": "statistics/image_statistics.json",
    "xgboost_tree": "app_server/xgboost_model.json",
}

pytestmark = pytest.mark.slow


def made(folder, template, *overrides):
    pytest.importorskip(NEEDS[template], reason=f"{NEEDS[template]} is not installed")
    outcome = fedsag("job", "create", "-w", template, "-j", "my_job", *overrides, cwd=folder)
    assert outcome.code == 0, outcome
    return folder / "my_job"


def result(outcome, template):
    """The file that the run is made for."""
    path = outcome.workspace / "server" / "simulate_job" / FILES.get(template, "app_server/model_param.npz")
    return path.read_bytes()


@pytest.fixture(scope="module")
def final(tmp_path_factory):
    """A run of a template as it is, which has ended well; each is run once."""

    @functools.cache
    def ran(template):
        outcome = run(made(tmp_path_factory.mktemp(template), template), "-n", 2, "-t", 2, "--seed", 7)
        assert outcome.code == 0, f"{outcome}\n{outcome.log('site-1')}"
        return outcome

    return ran


@pytest.mark.parametrize("template", list(NEEDS))
def test_a_template_gives_the_same_bits_with_each_launcher_and_number_at_a_time(tmp_path, final, template):
    forked = final(template)
    spawned = run(made(tmp_path, template), "-n", 2, "-t", 1, "--seed", 7, "--launcher", "spawn")

    assert spawned.code == 0, spawned
    assert forked.report["digest"] == spawned.report["digest"]
    assert result(forked, template) == result(spawned, template)


@pytest.mark.parametrize("template", ["sklearn_linear", "sklearn_kmeans", "xgboost_tree"])
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, template):
    job = made(tmp_path, template, "-f", "config_fed_server.conf", "num_rounds=40")
    undisturbed = run(job, "-n", 2, "-t", 2, "--seed", 5, workspace=tmp_path / "undisturbed")
    with Running(job, "-n", 2, "-t", 2, "--seed", 5) as running:
        running.wait_until_told("RoundFinished", 3)
        os.kill(running.process.pid, signal.SIGKILL)
        running.outcome()

    resumed = run(job, "--resume")

    assert resumed.code == 0, resumed
    assert resumed.report["digest"] == undisturbed.report["digest"]
    assert result(resumed, template) == result(undisturbed, template)


def pooled(load):
    """(x, y) of all sites, and of the test data that all have."""
    x, y = load(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    test, own = order[: len(x) // 5], order[len(x) // 5 :]
    return x[own], y[own], x[test], y[test]


def test_the_linear_model_is_as_good_as_that_of_the_pooled_data(final):
    outcome = final("sklearn_linear")
    from sklearn.datasets import load_breast_cancer
    from sklearn.linear_model import SGDClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.preprocessing import StandardScaler

    x, y, x_test, y_test = pooled(load_breast_cancer)
    scaler = StandardScaler().fit(x)
    alone = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.01, max_iter=30, tol=None, random_state=0)
    alone.fit(scaler.transform(x), y)

    params = np.load(outcome.workspace / "server/simulate_job/app_server/model_param.npz")
    model = SGDClassifier(loss="log_loss")
    model.classes_, model.coef_, model.intercept_ = np.array([0, 1]), params["coef"], params["intercept"]
    auc, auc_alone = (
        roc_auc_score(y_test, each.decision_function(scaler.transform(x_test))) for each in (model, alone)
    )
    assert auc > auc_alone - 0.005


def test_the_centres_are_as_good_as_those_of_the_pooled_data(final):
    """By the mean square distance of the examples to the nearest centre, which k-means makes small."""
    outcome = final("sklearn_kmeans")
    from sklearn.cluster import KMeans
    from sklearn.datasets import load_iris

    x, _, _, _ = pooled(load_iris)
    alone = KMeans(3, n_init=10, random_state=0).fit(x)

    center = np.load(outcome.workspace / "server/simulate_job/app_server/model_param.npz")["center"]
    inertia = ((x[:, None, :] - center) ** 2).sum(axis=2).min(axis=1).sum()
    assert inertia < 1.05 * alone.inertia_


def test_the_svm_is_as_good_as_that_of_the_pooled_data(final):
    outcome = final("sklearn_svm")
    from sklearn.datasets import load_breast_cancer
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    x, y, x_test, y_test = pooled(load_breast_cancer)
    scaler = StandardScaler().fit(x)
    alone = SVC().fit(scaler.transform(x), y).score(scaler.transform(x_test), y_test)

    params = np.load(outcome.workspace / "server/simulate_job/app_server/model_param.npz")
    model = SVC().fit(params["support_x"], params["support_y"])
    assert model.score(scaler.transform(x_test), y_test) > alone - 0.03


def test_the_trees_are_as_good_as_those_of_the_pooled_data(final):
    outcome = final("xgboost_tree")
    import xgboost as xgb
    from sklearn.datasets import load_breast_cancer
    from sklearn.metrics import roc_auc_score

    x, y, x_test, y_test = pooled(load_breast_cancer)
    settings = {"objective": "binary:logistic", "base_score": 0.5, "eta": 0.1, "max_depth": 4, "nthread": 1}
    alone = xgb.train(settings, xgb.DMatrix(x, label=y), 50)

    model = xgb.Booster(model_file=bytearray(result(outcome, "xgboost_tree")))
    assert model.num_boosted_rounds() == 2 * 50
    auc, auc_alone = (roc_auc_score(y_test, each.predict(xgb.DMatrix(x_test))) for each in (model, alone))
    assert auc > auc_alone - 0.01


def test_the_statistics_are_those_of_the_pooled_table(final):
    outcome = final("stats_df")
    from palmerpenguins import load_penguins

    table = load_penguins()
    table = table[table["island"].isin(["Biscoe", "Dream"])]

    found = json.loads(result(outcome, "stats_df"))
    assert set(found) == {"bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g"}
    for feature, of in found.items():
        values = table[feature].dropna()
        over_all = {name: of[name]["Global"]["train"] for name in of}
        assert over_all["count"] == len(values)
        assert over_all["sum"] == pytest.approx(values.sum(), abs=1e-4)
        assert over_all["mean"] == pytest.approx(values.mean(), abs=1e-4)
        assert over_all["stddev"] == pytest.approx(values.std(), abs=1e-4)
        assert over_all["quantile"]["0.5"] == pytest.approx(values.median(), rel=0.02)
        assert sum(count for *_, count in over_all["histogram"]) == len(values)
    counts, _ = np.histogram(table["body_mass_g"].dropna(), bins=8, range=(2500, 6500))
    assert [count for *_, count in found["body_mass_g"]["histogram"]["Global"]["train"]] == counts.tolist()
    assert "Statistics over all sites" in outcome.out


def test_a_site_with_few_rows_sends_its_counts_only(tmp_path):
    job = made(tmp_path, "stats_df", "-f", "config_fed_client.conf", "min_count=150")

    outcome = run(job, "-n", 2, "-t", 2)

    assert outcome.code == 0, outcome
    found = json.loads(result(outcome, "stats_df"))["body_mass_g"]
    assert found["count"] == {"site-1": {"train": 167}, "site-2": {"train": 124}, "Global": {"train": 291}}
    assert set(found["mean"]) == {"site-1", "Global"}


def test_a_site_beyond_the_parts_of_the_data_says_what_to_do(tmp_path):
    outcome = run(made(tmp_path, "sklearn_svm"), "-n", 3, "-t", 3)

    assert list(outcome.failures()) == ["site-3"]
    assert "site-3: the data has parts for site-1 to site-2; --num_sites makes more" in outcome.log("site-3")
