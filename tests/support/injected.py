"""Real faults inside the server's processes: code that runs in them, put there through ``sitecustomize``.

The server's PYTHONPATH gets a folder whose ``sitecustomize`` waits, in worker processes only, for the module
``mpchat.worker.worker`` to be imported, and then hands it to a fault. A fault of the supervisor runs when its
interpreter starts.
"""

import os
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.harness import Server

_SITECUSTOMIZE = '''
import importlib.util, os, sys, time

class Finder:
    """Lets a module be found as usual, and has ``act(module)`` called after it was run."""

    def __init__(self, name, act):
        self.name, self.act = name, act

    def find_spec(self, name, path=None, target=None):
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module
        def exec_module(module):
            run(module)
            self.act(module)
        spec.loader.exec_module = exec_module
        return spec

def when_imported(name, act):
    """Have ``act(module)`` called once the module has been imported, in whatever process."""
    sys.meta_path.insert(0, Finder(name, act))

def _slot():
    from multiprocessing import current_process
    return int(current_process().name.rpartition("-")[2])

def before_each_turn(worker, act):
    """Have ``act(turns)`` called before each turn of a worker's loop."""
    turn, turns = worker.Worker.turn, [0]
    def with_fault(self):
        turns[0] += 1
        act(turns[0])
        turn(self)
    worker.Worker.turn = with_fault

def part_of_worker(name):
    """Return a class of the worker's process and a method of it; ``name`` is MODULE.CLASS.METHOD."""
    module, part, method = name.split(".")
    folder = "worker" if f"mpchat.worker.{module}" in sys.modules else "ipc"
    part = getattr(sys.modules[f"mpchat.{folder}.{module}"], part)
    return part, getattr(part, method)

def flagged(name):
    return os.path.exists(os.path.join(FOLDER, name))

if any("spawn_main" in each for each in sys.orig_argv):
    when_imported("mpchat.worker.worker", lambda module: install(module, _slot()))

'''


_HOLD = """
import os, socket, sys, time

def flagged(name):
    return os.path.exists(os.path.join(FOLDER, name))

def hold(name):
    \"\"\"Wait while NAME is flagged; flag "NAME waits" meanwhile.\"\"\"
    if flagged(name):
        open(os.path.join(FOLDER, name + " waits"), "w").close()
    while flagged(name):
        time.sleep(0.01)

"""
_IN_SUPERVISOR = """
if "mpchat.supervisor" in sys.orig_argv:
    install()
"""
_IN_ALL = """
if "mpchat.supervisor" in sys.orig_argv or any("spawn_main" in each for each in sys.orig_argv):
    install()
"""


def inject_into_supervisor(server: Server, fault: str) -> Path:
    """Have ``fault`` in the supervisor that this server starts from now on.

    ``fault`` is the source of ``install()``. Returns the folder of what ``flagged(NAME)`` and ``hold(NAME)``
    look for.
    """
    return _inject(server, textwrap.dedent(fault), _HOLD, _IN_SUPERVISOR)


def inject_into_all(server: Server, fault: str) -> Path:
    """Have ``fault`` in the supervisor and in the workers; see :func:`inject_into_supervisor`."""
    return _inject(server, textwrap.dedent(fault), _HOLD, _IN_ALL)


def inject(server: Server, fault: str) -> Path:
    """Have ``fault`` in the workers that this server starts from now on.

    ``fault`` is the source of ``install(worker, slot)``: it gets the module, and does what it wants with it.
    Returns a folder: a file in it is what ``flagged(NAME)`` looks for.
    """
    return _inject(server, _SITECUSTOMIZE, textwrap.dedent(fault))


def _inject(server: Server, *source: str) -> Path:
    site = server.folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("\n".join([f"FOLDER = {str(site)!r}", *source]))
    before = server.environment.get("PYTHONPATH")
    server.environment["PYTHONPATH"] = os.pathsep.join([str(site), *([before] if before else [])])
    return site


_STEPPED_CLOCK = """
import os, time

real, path = time.time, {path!r}

def stepped():
    try:
        with open(path) as file:
            return real() + float(file.read())
    except (OSError, ValueError):
        return real()

time.time = stepped
"""


def steppable_clock(server: Server) -> Path:
    """Give all processes of a server that is started later a wall clock that can be stepped.

    Returns a file: the seconds in it are added to the time.
    """
    ahead, site = server.folder / "ahead", server.folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(_STEPPED_CLOCK.format(path=str(ahead)))
    server.environment["PYTHONPATH"] = str(site)
    return ahead


# Workers of a slot that are started while it is :func:`held` wait for the end of that.
HELD = """
    def install(worker, slot):
        while flagged(f"held {slot}"):
            time.sleep(0.01)
"""


@contextmanager
def held(server: Server, slot: int) -> Iterator[None]:
    """No new worker of this slot becomes ready during the block; the server has the fault ``HELD``."""
    flag = server.folder / "site" / f"held {slot}"
    flag.touch()
    try:
        yield
    finally:
        flag.unlink()
