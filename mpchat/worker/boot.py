"""Boot: where a worker's process begins. It loads the worker with the garbage collector off.

What is loaded stays: without the collector that takes an eighth less CPU. And a supervisor that starts the
process by naming this function loads nothing of the worker.
"""

import gc
import pickle
from typing import Any


def main(config: bytes, *arguments: Any) -> None:
    """Run :func:`mpchat.worker.worker.main`. ``config`` is pickled: reading it loads much of the rest."""
    gc.disable()
    from mpchat.worker import worker

    worker.main(pickle.loads(config), *arguments)
