"""Node's packages for the bench: npm installs them at first use, into the user's cache, never the checkout.

The rule it keeps: a folder with this name is whole. It is made beside and renamed, so that an install that
was interrupted leaves nothing that looks like one.
"""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from platformdirs import user_cache_path

from scripts.bench.row import BenchError

# Where the packages are put.
CACHE = user_cache_path("mpchat-bench")
# Exact, so that two runs on one machine compare the same.
PACKAGES = {"ws": "8.23.0", "socket.io": "4.8.4"}
# The same for several Node processes that are one server, in a folder of their own.
CLUSTER_PACKAGES = {
    "socket.io": PACKAGES["socket.io"],
    "@socket.io/redis-streams-adapter": "0.3.1",
    "redis": "5.12.1",
}
# Seconds for npm, which tries a network that does not answer again and again.
INSTALL_S = 120.0


@cache
def modules(cluster: bool = False) -> Path:
    """Return the folder that has the packages. Raise :class:`BenchError` when it cannot be made."""
    packages = CLUSTER_PACKAGES if cluster else PACKAGES
    wanted = [f"{name}@{number}" for name, number in packages.items()]
    folder = CACHE / "-".join(["node", *wanted]).replace("/", "+")
    if not folder.is_dir():
        _require("npm")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent, prefix="npm-") as scratch:
            _install(scratch, wanted)
            try:
                os.rename(scratch, folder)
            except OSError:
                if not folder.is_dir():  # else another process was faster
                    raise
            else:
                os.mkdir(scratch)  # to be removed at the end of the block
    return folder / "node_modules"


def _install(folder: str, wanted: list[str]) -> None:
    quiet = ("--no-audit", "--no-fund", "--ignore-scripts", "--no-update-notifier")
    try:
        answer = subprocess.run(
            ["npm", "install", "--prefix", folder, *quiet, *wanted],
            capture_output=True,
            text=True,
            timeout=INSTALL_S,
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"npm did not install {', '.join(wanted)} within {INSTALL_S:.0f} s") from None
    if answer.returncode:
        said = next((line for line in answer.stderr.splitlines() if "err" in line.lower()), "it said nothing")
        raise BenchError(f"npm cannot install {', '.join(wanted)}: {said}")


def version(package: str, cluster: bool = False) -> str:
    """Return the versions of ``package``, which is then installed, and of Node. Raise as :func:`modules`."""
    node = _require("node")
    modules(cluster)
    answer = subprocess.run([node, "--version"], capture_output=True, text=True)
    number = (CLUSTER_PACKAGES if cluster else PACKAGES)[package]
    return f"{number} on Node {answer.stdout.strip().removeprefix('v')}"


def _require(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise BenchError("apt-get install nodejs npm")
    return path
