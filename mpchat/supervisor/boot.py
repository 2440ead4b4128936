"""Boot: the first lines of a server's process: it finds this package, and no strangers.

A script, started as ``python -P boot.py mpchat.supervisor NAME FOLDER SETTINGS OUTCOME``. With ``-P`` Python
puts no folder before its own modules. The folder of this package must not come before them either:
where packages are installed, an old ``pathlib`` may lie beside it.
"""

import gc
import importlib.util
import os
import runpy
import sys

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def find_package() -> None:
    """Make ``import mpchat`` load this package here and in the workers, which get the same ``sys.path``."""
    found = importlib.util.find_spec("mpchat")
    if found is None:
        sys.path.append(os.path.dirname(PACKAGE))
    elif not found.origin or os.path.dirname(os.path.abspath(found.origin)) != PACKAGE:
        sys.path.insert(0, os.path.dirname(PACKAGE))


if __name__ == "__main__":
    find_package()
    # Modules stay loaded: loading takes an eighth less CPU without the collector. `__main__` starts it.
    gc.disable()
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
