"""fedsag's Client API for an exported job, which NVFLARE runs; fedsag need not be installed there.

Where fedsag runs the exported job, this package steps aside for the real one.
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
