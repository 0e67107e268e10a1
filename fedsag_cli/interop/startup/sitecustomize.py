"""Gives every Python that a client or a job script starts, such as the workers of a launcher, the names of NVFLARE.

The folder is on their PYTHONPATH. Another `sitecustomize` on the path is run too, as it would be without this one.
"""

import os
import sys
from importlib.machinery import PathFinder

_here = __file__.rpartition("/")[0]
try:
    if "FEDSAG_RUN_WITH" in os.environ or f"{_here}/of_job_scripts" in sys.path:
        from fedsag_cli.recipe.hook import install
    else:
        from fedsag_cli.interop.shim import install
except (ImportError, SyntaxError):  # a Python without fedsag, or an older one
    pass
else:
    install()

_next = PathFinder.find_spec("sitecustomize", [entry for entry in sys.path if entry != _here])
if _next is not None and _next.loader is not None:
    import importlib.util

    _module = importlib.util.module_from_spec(_next)
    sys.modules["sitecustomize"] = _module
    _next.loader.exec_module(_module)
