"""Lets a script that imports `nvflare.client` run unchanged, whether or not NVFLARE is installed.

It is active only in the processes of clients. The modules of the Client API are always fedsag's, since NVFLARE's cannot
take part in a run of fedsag. Other modules are NVFLARE's if it is installed. If it is not, the import of a module that
fedsag does not have is an error that says so.
"""

from __future__ import annotations

import importlib
import os.path
import sys
from importlib.machinery import ModuleSpec, PathFinder

TYPE_CHECKING = False  # typing takes 8 ms in every Python that a client starts, and pathlib 10 ms
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

STARTUP = os.path.join(os.path.dirname(__file__), "startup")  # noqa: PTH118, PTH120
"""A folder for PYTHONPATH: every Python that a client's script or command starts then calls `install`.

A job script, and every Python that it starts, gets the names of job scripts instead: job_scripts says how it is known.
"""

_ROOT = "nvflare"
_OF_JOB_SCRIPTS = "fedsag_cli.recipe.ours"  # above this package
_CLIENT_API = ("fedsag_cli.client", "fedsag_cli.client.decorators")
_LIGHTNING = ("fedsag_cli.client.lightning",)
_HF = ("fedsag_cli.client.hf",)
_CONSTANTS = ("fedsag_cli.interop.constants",)
_FEDPROX = ("fedsag_cli.client.fedprox",)
_SCAFFOLD = ("fedsag_cli.client.pt_scaffold", *_CONSTANTS)
_EXCHANGE = ("fedsag_cli.interop.base.exchange",)
_CONTEXT = ("fedsag_cli.interop.base.context",)
_COMPONENTS = ("fedsag_cli.interop.base.components",)
_EXECUTORS = ("fedsag_cli.interop.base.executors",)
_CONTROLLERS = ("fedsag_cli.server.model_controller",)
_OWN_CLASSES = {  # of which users make executors, learners, controllers, filters and aggregators
    "nvflare.apis.dxo": (*_EXCHANGE, *_CONSTANTS),
    "nvflare.apis.executor": _EXECUTORS,
    "nvflare.apis.filter": _COMPONENTS,
    "nvflare.apis.fl_component": _CONTEXT,
    "nvflare.apis.fl_context": _CONTEXT,
    "nvflare.apis.shareable": _EXCHANGE,
    "nvflare.apis.signal": _CONTEXT,
    "nvflare.app_common.abstract.learner_spec": _EXECUTORS,
    "nvflare.app_common.abstract.model": _EXCHANGE,
    "nvflare.app_common.abstract.model_learner": _EXECUTORS,
    "nvflare.app_common.aggregators.assembler": _COMPONENTS,
    "nvflare.app_common.aggregators.model_aggregator": _COMPONENTS,
    "nvflare.app_common.aggregators.weighted_aggregation_helper": ("fedsag_cli.server.weighted_aggregation",),
    "nvflare.app_common.executors.learner_executor": _EXECUTORS,
    "nvflare.app_common.executors.model_learner_executor": _EXECUTORS,
    "nvflare.app_common.utils.fl_component_wrapper": _EXECUTORS,
    "nvflare.app_common.workflows.base_fedavg": _CONTROLLERS,
    "nvflare.app_common.workflows.fedavg": _CONTROLLERS,
    "nvflare.app_common.workflows.model_controller": _CONTROLLERS,
    "nvflare.app_common.utils.fl_model_utils": _EXCHANGE,
    "nvflare.app_opt.pt.model_persistence_format_manager": ("fedsag_cli.client.pt_format",),
}
_ALWAYS = {
    "nvflare": (),  # NVFLARE's own imports all of NVFLARE
    "nvflare.client": _CLIENT_API,
    "nvflare.client.api": _CLIENT_API,
    "nvflare.client.decorator": _CLIENT_API,
    "nvflare.client.tracking": ("fedsag_cli.client.tracking",),
    "nvflare.client.lightning": _LIGHTNING,
    "nvflare.client.hf": _HF,
    "nvflare.apis.dxo_filter": (*_COMPONENTS, *_EXCHANGE, *_CONTEXT),
    "nvflare.app_common.abstract.fl_model": ("fedsag_cli.client",),
    "nvflare.app_opt.hf": _HF,
    "nvflare.app_opt.lightning": _LIGHTNING,
    "nvflare.app_opt.lightning.api": _LIGHTNING,
    "nvflare.app_opt.lightning.loggers.client_logger": _LIGHTNING,
    "nvflare.app_opt.pt.scaffold": _SCAFFOLD,  # NVFLARE's keeps its controls in memory: --resume would lose them
    "nvflare.app_opt.sklearn": (),  # NVFLARE's own imports its recipes
    "nvflare.app_opt.sklearn.data_loader": ("fedsag_cli.client.data_files",),
    **_OWN_CLASSES,
}
# a script that imports nvflare.client shall run with NVFLARE too
_NOT_OF_NVFLARE = ("Site", "adapter_state", "partition", "shared", "site")
_RENAMED = {"nvflare.client.lightning": {"logger": "ClientLogger"}}  # NVFLARE's name: fedsag's
_MERGED = {
    "nvflare.app_common.abstract.fl_model",
    *_OWN_CLASSES,
}  # also have NVFLARE's other names, which its own modules use
_WITHOUT_NVFLARE = {
    "nvflare": (),
    "nvflare.apis": (),
    "nvflare.apis.analytix": ("fedsag_cli.client.analytics",),
    "nvflare.apis.event_type": _CONSTANTS,
    "nvflare.apis.fl_constant": _CONSTANTS,
    "nvflare.app_common": (),
    "nvflare.app_common.abstract": (),
    "nvflare.app_common.aggregators": _COMPONENTS,
    "nvflare.app_common.workflows": (),
    "nvflare.app_common.abstract.fl_model": ("fedsag_cli.client", *_CONSTANTS),
    "nvflare.app_common.app_constant": _CONSTANTS,
    "nvflare.app_common.abstract.statistics_spec": ("fedsag_cli.client.statistics.spec",),
    "nvflare.app_common.executors": (),
    "nvflare.app_common.np": (),
    "nvflare.app_common.np.constants": _CONSTANTS,
    "nvflare.app_common.pt": (),
    "nvflare.app_common.pt.pt_scaffold": _SCAFFOLD,
    "nvflare.app_common.statistics": (),
    "nvflare.app_common.statistics.numpy_utils": ("fedsag_cli.client.statistics.tables",),
    "nvflare.app_common.utils": (),
    "nvflare.app_common.utils.fedprox_utils": ("fedsag_cli.client.fedprox_mu",),
    "nvflare.app_opt": (),
    "nvflare.app_opt.lightning.loggers": (),
    "nvflare.app_opt.pt": (*_FEDPROX, *_SCAFFOLD),
    "nvflare.app_opt.pt.fedproxloss": _FEDPROX,
    "nvflare.app_opt.pt.scaffold": _SCAFFOLD,
    "nvflare.app_opt.statistics": (),
    "nvflare.app_opt.xgboost": (),
    "nvflare.app_opt.xgboost.data_loader": ("fedsag_cli.client.xgb_trees",),
    "nvflare.app_opt.statistics.df": (),
    "nvflare.app_opt.statistics.df.df_core_statistics": ("fedsag_cli.client.statistics.tables",),
    "nvflare.fuel": (),
    "nvflare.fuel.utils": (),
    "nvflare.fuel.utils.import_utils": ("fedsag_cli.client.optional",),
    "nvflare.security": (),
    "nvflare.security.logging": ("fedsag_cli.interop.base.exceptions",),
}


def install() -> None:
    """Make NVFLARE's modules importable. A second call does nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
        sys.meta_path.append(_Missing())


def modules_of(fullname: str) -> Sequence[str] | None:
    """The modules of fedsag that make up this module where NVFLARE is not installed; None if fedsag lacks it."""
    return _WITHOUT_NVFLARE.get(fullname, _ALWAYS.get(fullname))


def names_of(module: str) -> dict[str, object]:
    """The public names of a module of fedsag that NVFLARE has too."""
    known = vars(importlib.import_module(module))
    public = known.get("__all__") or [each for each in known if not each.startswith("_")]
    return {each: known[each] for each in public if each not in _NOT_OF_NVFLARE}


class _Finder:
    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != _ROOT:
            return None
        original = PathFinder.find_spec(fullname, path)
        modules = _ALWAYS.get(fullname)
        if original is None:
            modules = _WITHOUT_NVFLARE.get(fullname, modules)
        if modules is None:
            return None  # NVFLARE's module, or no module
        # without NVFLARE, all are packages: Python looks for a missing name as for a module, and asks _Missing
        is_package = original is None or original.submodule_search_locations is not None
        spec = ModuleSpec(fullname, _Loader(modules, original), is_package=is_package)  # type: ignore[arg-type]
        if original is not None and spec.submodule_search_locations is not None:
            spec.submodule_search_locations += original.submodule_search_locations or []
        return spec


class _Missing:
    """The last finder, for modules that no other finder has: its error says what is missing and why."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] == _ROOT and PathFinder.find_spec(_ROOT) is None:
            spec: ModuleSpec | None = importlib.import_module(_OF_JOB_SCRIPTS).find_spec(fullname)
            if spec is not None:
                return spec
            # `name` is the package: `from x import y` hides an error whose name is x.y
            raise ModuleNotFoundError(f"fedsag has no {fullname}, and nvflare is not installed", name=_ROOT)
        return None


class _Loader:  # has the methods of importlib.abc.Loader, whose import is slow
    """Fills a module with the public names of fedsag's modules; in _MERGED modules, after NVFLARE's names."""

    def __init__(self, modules: Sequence[str], original: ModuleSpec | None) -> None:
        self._modules, self._original = modules, original

    def create_module(self, spec: ModuleSpec) -> None:
        """None: Python creates the module."""

    def exec_module(self, module: ModuleType) -> None:
        if self._original is not None and self._original.loader is not None and module.__name__ in _MERGED:
            self._original.loader.exec_module(module)
        for name in self._modules:
            names = names_of(name)
            for each in names:
                _add_constants(names[each], module.__dict__.get(each))
            module.__dict__.update(names)
            module.__doc__ = module.__doc__ or importlib.import_module(name).__doc__
        for alias, name in _RENAMED.get(module.__name__, {}).items():
            module.__dict__[alias] = module.__dict__[name]


def _add_constants(ours: object, theirs: object) -> None:
    """NVFLARE's modules use more names of its constants than fedsag has."""
    if isinstance(ours, type) and isinstance(theirs, type) and ours.__module__.startswith("fedsag_cli."):
        for name, value in vars(theirs).items():
            if isinstance(value, str) and not name.startswith("__") and not hasattr(ours, name):
                setattr(ours, name, value)
