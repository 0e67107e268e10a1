"""Job scripts in the style of NVFLARE's recipes: `from fedsag_cli.recipe import SimEnv` runs any recipe with fedsag."""

from fedsag_cli.recipe.environments import PocEnv, ProdEnv, Run, SimEnv

__all__ = ["PocEnv", "ProdEnv", "Run", "SimEnv"]
