"""Gives a job script, and every Python that it starts, the names with which fedsag runs its jobs.

Another `sitecustomize` on the path is run too, as it would be without this one.
"""

import sys
from importlib.machinery import PathFinder

try:
    from fedsag_cli.recipe import hook
except (ImportError, SyntaxError):  # a Python without fedsag, or an older one
    pass
else:
    hook.install()

_here = __file__.rpartition("/")[0]
_next = PathFinder.find_spec("sitecustomize", [entry for entry in sys.path if entry != _here])
if _next is not None and _next.loader is not None:
    import importlib.util

    _module = importlib.util.module_from_spec(_next)
    sys.modules["sitecustomize"] = _module
    _next.loader.exec_module(_module)
