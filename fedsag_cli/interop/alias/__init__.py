"""fedsag's Client API in an exported job, for NVFLARE to run the job without fedsag.

If fedsag runs the exported job, the installed package fedsag_cli is used instead of this one.
"""

import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path

if "FEDSAG_ADDRESS" in os.environ:
    _above = Path(__file__).resolve().parent.parent
    _spec = PathFinder.find_spec(__name__, [entry for entry in sys.path if Path(entry).resolve() != _above])
    if _spec is not None and _spec.submodule_search_locations is not None:
        __path__[:] = _spec.submodule_search_locations
