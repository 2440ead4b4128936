"""Installation: tells one instance of this machine from all others, of other machines and containers too.

It needs no file of its own: nothing may be left that is stale. A server that was killed and starts again has
the same text, because it has the same folder.
"""

import hashlib
import os
import platform
from contextlib import suppress
from pathlib import Path

# Where Linux keeps the random text that names a machine.
MACHINE_ID = Path("/etc/machine-id")


def installation_id(folder: Path) -> str:
    """Return 32 hexadecimal digits for the instance whose files are in ``folder``, which must be there."""
    machine = ""
    with suppress(OSError):
        machine = MACHINE_ID.read_text("ascii", errors="replace").strip()
    about = os.stat(folder)
    parts = (machine, platform.node(), str(folder), str(about.st_dev), str(about.st_ino))
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:32]
