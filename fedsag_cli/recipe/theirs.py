"""Lets the jobs of an installed NVFLARE run in fedsag's simulator: NVFLARE makes the job folder, fedsag runs it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

from fedsag_cli.recipe import environments
from fedsag_cli.recipe.simulating import simulate_exported


def install() -> None:
    """From now on, NVFLARE's simulator of jobs is fedsag's. A second call does nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _simulates(module: ModuleType) -> None:
    module.FedJobConfig.simulator_run = simulate_exported


def _answers(module: ModuleType) -> None:
    module.SimEnv.get_job_status = environments.SimEnv.get_job_status


def _refuses(name: str) -> Callable[[ModuleType], None]:
    return lambda module: setattr(getattr(module, name), "__init__", getattr(environments, name).__init__)


_CHANGES: dict[str, Callable[[ModuleType], None]] = {
    "nvflare.job_config.fed_job_config": _simulates,
    "nvflare.recipe.sim_env": _answers,
    "nvflare.recipe.poc_env": _refuses("PocEnv"),
    "nvflare.recipe.prod_env": _refuses("ProdEnv"),
}


class _Finder:
    """Finds NVFLARE's own modules; those of _CHANGES are changed when they are imported."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        change = _CHANGES.get(fullname)
        spec = PathFinder.find_spec(fullname, path) if change else None
        if change is None or spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def and_change(module: ModuleType) -> None:
            load(module)
            change(module)

        spec.loader.exec_module = and_change  # type: ignore[method-assign]
        return spec
