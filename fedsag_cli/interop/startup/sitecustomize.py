"""Every Python that a client starts imports this: a launcher's workers may import `nvflare.client` as the script may.

The folder is on a client's PYTHONPATH. What else is called sitecustomize there is run as if this one were not.
"""

import sys
from importlib.machinery import PathFinder

try:
    from fedsag_cli.interop import shim
except (ImportError, SyntaxError):  # an interpreter that has no fedsag, or is older
    pass
else:
    shim.install()

_here = __file__.rpartition("/")[0]
_next = PathFinder.find_spec("sitecustomize", [entry for entry in sys.path if entry != _here])
if _next is not None and _next.loader is not None:
    import importlib.util

    _module = importlib.util.module_from_spec(_next)
    sys.modules["sitecustomize"] = _module
    _next.loader.exec_module(_module)
