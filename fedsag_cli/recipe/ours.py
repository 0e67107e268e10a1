"""NVFLARE's names in a job script, made of fedsag: they are the same whether NVFLARE is installed or not.

Recipes, `FedJob` and what belongs to them are those of this package. A class that a job may name becomes a Part. What
scripts and the user's own classes import is that of the shim for clients.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, cast

from fedsag_cli.interop import shim, vocabulary
from fedsag_cli.recipe.lacking import lacking
from fedsag_cli.recipe.parts import part_class

_ROOT = "nvflare"
_HERE = "fedsag_cli.recipe."
_ENVIRONMENTS = dict.fromkeys(("SimEnv", "PocEnv", "ProdEnv", "Run", "ExecEnv"), "environments")
_SECRETS = {"secret_ref": "additions", "secret_file_ref": "additions"}
_ADDITIONS = dict.fromkeys(
    [
        "add_experiment_tracking",
        "add_cross_site_evaluation",
        "add_final_global_evaluation",
        "set_per_site_config",
        "set_recipe_meta",
    ],
    "additions",
)
_TORCH = {
    "fedavg": "FedAvgRecipe", "fedprox": "FedProxRecipe", "fedopt": "FedOptRecipe", "scaffold": "ScaffoldRecipe",
    "cyclic": "CyclicRecipe", "swarm": "SwarmLearningRecipe", "fedeval": "FedEvalRecipe",
}  # fmt: skip
_NUMPY = {"NumpyFedAvgRecipe": "recipes"}
_NUMPY_EVALUATION = {"NumpyCrossSiteEvalRecipe": "arrays"}
_SKLEARN = {"fedavg": "SklearnFedAvgRecipe", "kmeans": "KMeansFedAvgRecipe", "svm": "SVMFedAvgRecipe"}
_CLIENT_CONTROLLED = (
    "CCWFJob", "CrossSiteEvalConfig", "CyclicClientConfig", "CyclicServerConfig", "SwarmClientConfig",
    "SwarmServerConfig",
)  # fmt: skip
_NAMES: Mapping[str, Mapping[str, str]] = {
    "nvflare": {"FedJob": "fed_job", "FilterType": "settings"},
    "nvflare.recipe": {
        **_ENVIRONMENTS, **_ADDITIONS, **_SECRETS, "FedAvgRecipe": "recipes", "Recipe": "recipes"},
    "nvflare.recipe.spec": {"ExecEnv": "environments", "Recipe": "recipes"},
    "nvflare.recipe.run": {"Run": "environments"},
    "nvflare.recipe.sim_env": dict.fromkeys(["SimEnv", "SIMULATOR_WORKSPACE_ROOT_ENV_VAR"], "environments"),
    "nvflare.recipe.poc_env": {"PocEnv": "environments"},
    "nvflare.recipe.prod_env": {"ProdEnv": "environments"},
    "nvflare.recipe.utils": {**_ADDITIONS, "extract_persistor_id": "additions"},
    "nvflare.recipe.secrets": _SECRETS,
    "nvflare.recipe.fedavg": {"FedAvgRecipe": "recipes"},
    "nvflare.recipe.cyclic": {"CyclicRecipe": "recipes"},
    "nvflare.app_opt.pt.recipes": dict.fromkeys(_TORCH.values(), "recipes"),
    **{f"nvflare.app_opt.pt.recipes.{module}": {name: "recipes"} for module, name in _TORCH.items()},
    "nvflare.app_opt.pt.recipes.swarm": dict.fromkeys(["SwarmLearningRecipe", "SimpleSwarmLearningRecipe"], "recipes"),
    "nvflare.app_opt.sklearn": dict.fromkeys(_SKLEARN.values(), "tables"),
    "nvflare.app_opt.sklearn.recipes": dict.fromkeys(_SKLEARN.values(), "tables"),
    **{f"nvflare.app_opt.sklearn.recipes.{module}": {name: "tables"} for module, name in _SKLEARN.items()},
    "nvflare.app_common.np.recipes": {**_NUMPY, **_NUMPY_EVALUATION},
    "nvflare.app_common.np.recipes.fedavg": _NUMPY,
    "nvflare.app_common.np.recipes.cross_site_eval": _NUMPY_EVALUATION,
    "nvflare.app_common.np.recipes.lr.fedavg": {"FedAvgLrRecipe": "arrays"},
    "nvflare.app_opt.np.recipes": {**_NUMPY, **_NUMPY_EVALUATION},  # where they were before 2.7.2
    "nvflare.app_opt.np.recipes.fedavg": {**_NUMPY, "FedAvgRecipe": "recipes.NumpyFedAvgRecipe"},
    "nvflare.app_opt.np.recipes.cross_site_eval": _NUMPY_EVALUATION,
    "nvflare.app_common.ccwf.ccwf_job": dict.fromkeys(_CLIENT_CONTROLLED, "client_controlled"),
    "nvflare.app_opt.xgboost.recipes": {"XGBBaggingRecipe": "trees"},
    "nvflare.app_opt.xgboost.recipes.bagging": {"XGBBaggingRecipe": "trees"},
    "nvflare.recipe.fedstats": {"FedStatsRecipe": "statistics"},
    "nvflare.job_config.stats_job": {"StatsJob": "statistics"},
    "nvflare.job_config.api": {"FedJob": "fed_job", "JobCtx": "fed_job"},
    "nvflare.job_config.defs": {"FilterType": "settings"},
    "nvflare.job_config.base_fed_job": {"BaseFedJob": "fed_job"},
    "nvflare.job_config.script_runner": {
        "ScriptRunner": "fed_job",
        "FrameworkType": "settings", "ExchangeFormat": "settings", "TransferType": "settings",
    },
    "nvflare.app_opt.pt.job_config.base_fed_job": {"BaseFedJob": "fed_job"},
    "nvflare.app_opt.pt.job_config.fed_avg": {"FedAvgJob": "fed_job"},
    "nvflare.app_opt.pt.job_config.model": {"PTModel": "fed_job"},
    "nvflare.client.config": {"ExchangeFormat": "settings", "TransferType": "settings"},
    "nvflare.fuel.utils.constants": {"FrameworkType": "settings"},
    "nvflare.private.fed.utils.fed_utils": {"split_gpus": "simulating"},
    "nvflare.apis.job_def": {
        "JobMetaKey": "settings", "ALL_SITES": "fed_job", "SERVER_SITE_NAME": "fed_job",
    },
    # their classes are parts here
    "nvflare.app_common.workflows.fedavg": {},
    "nvflare.app_common.executors.learner_executor": {},
    "nvflare.app_common.executors.model_learner_executor": {},
}  # fmt: skip
_PACKAGES = ("apis", "app_common", "app_opt", "client", "fuel", "job_config", "private", "recipe")


def install() -> None:
    """Serve NVFLARE's names. A second call does nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def find_spec(fullname: str) -> ModuleSpec | None:
    """The module of a job script: for a class of the user's own in it, the processes of a run import the script too."""
    is_known = any(f"{each}.".startswith(f"{fullname}.") for each in _NAMES) or _is_class(fullname)
    return ModuleSpec(fullname, _Loader(), is_package=True) if is_known else None  # type: ignore[arg-type]


class _Finder:
    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != _ROOT:
            return None
        return ModuleSpec(fullname, _Loader(), is_package=True)  # type: ignore[arg-type]


class _Module(ModuleType):
    """A module in which a name that fedsag lacks is an error, however a script comes by it.

    Python cannot tell a function from a module before it is used: `from nvflare.a import b` gives a module for each b.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return importlib.import_module(f"{self.__name__}.{name}")

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise lacking(self.__name__)

    def __mro_entries__(self, bases: Any) -> Any:
        raise lacking(self.__name__)


class _Loader:
    """Fills a module; all are packages, so that Python asks the finder for a missing name as for a module."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        if name in _NAMES:
            for each, where in _NAMES[name].items():
                place, _, called = where.partition(".")
                module.__dict__[each] = getattr(importlib.import_module(_HERE + place), called or each)
        elif (modules := shim.modules_of(name)) is not None:
            for each in modules:
                module.__dict__.update(shim.names_of(each))
        elif _is_class(name):
            sys.modules.update({name: cast("ModuleType", part_class(name))})  # what `from module import Class` binds
        elif name.partition(".")[2].partition(".")[0] not in _PACKAGES or not name.rpartition(".")[2].islower():
            raise lacking(name)


def _is_class(path: str) -> bool:
    return vocabulary.is_class(path.rpartition(".")[2])
