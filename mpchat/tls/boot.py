"""Boot: where a TLS process begins; see ``worker.boot``."""

import gc
import pickle
from typing import Any


def main(config: bytes, *arguments: Any) -> None:
    """Run :func:`mpchat.tls.terminator.main`. ``config`` is pickled: reading it loads much of the rest."""
    gc.disable()
    from mpchat.tls import terminator

    terminator.main(pickle.loads(config), *arguments)
