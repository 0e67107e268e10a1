"""Job scripts in the style of NVFLARE's recipes: `from fedsag_cli.recipe import SimEnv` runs any recipe with fedsag.

    from fedsag_cli.recipe import FedAvgRecipe, SimEnv

    recipe = FedAvgRecipe(model=Net(), min_clients=2, num_rounds=5, train_script="client.py")
    run = recipe.execute(SimEnv(num_clients=2))
    run.get_result()

The other names are imported when they are used: importing recipes takes --export and --export-dir from `sys.argv`,
which recipes of NVFLARE do too.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fedsag_cli.recipe.environments import PocEnv, ProdEnv, Run, SimEnv

if TYPE_CHECKING:
    from fedsag_cli.recipe.additions import (
        add_cross_site_evaluation,
        add_experiment_tracking,
        add_final_global_evaluation,
        secret_file_ref,
        secret_ref,
        set_per_site_config,
        set_recipe_meta,
    )
    from fedsag_cli.recipe.arrays import FedAvgLrRecipe, NumpyCrossSiteEvalRecipe
    from fedsag_cli.recipe.fed_job import FedJob, ScriptRunner
    from fedsag_cli.recipe.recipes import (
        CyclicRecipe,
        FedAvgRecipe,
        FedEvalRecipe,
        FedOptRecipe,
        FedProxRecipe,
        NumpyFedAvgRecipe,
        ScaffoldRecipe,
        SwarmLearningRecipe,
    )

__all__ = [
    "CyclicRecipe",
    "FedAvgLrRecipe",
    "FedAvgRecipe",
    "FedEvalRecipe",
    "FedJob",
    "FedOptRecipe",
    "FedProxRecipe",
    "NumpyCrossSiteEvalRecipe",
    "NumpyFedAvgRecipe",
    "PocEnv",
    "ProdEnv",
    "Run",
    "ScaffoldRecipe",
    "ScriptRunner",
    "SimEnv",
    "SwarmLearningRecipe",
    "add_cross_site_evaluation",
    "add_experiment_tracking",
    "add_final_global_evaluation",
    "secret_file_ref",
    "secret_ref",
    "set_per_site_config",
    "set_recipe_meta",
]
_PLACES = {
    "FedAvgLrRecipe": "arrays",
    "FedJob": "fed_job",
    "NumpyCrossSiteEvalRecipe": "arrays",
    "ScriptRunner": "fed_job",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    place = _PLACES.get(name) or ("recipes" if name.endswith("Recipe") else "additions")
    return getattr(importlib.import_module(f"{__name__}.{place}"), name)
