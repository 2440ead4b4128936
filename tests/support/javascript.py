"""Node for tests of the page's modules: programs that import them, and what they print."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from scripts.bench import node
from scripts.bench.row import BenchError
from support.manual import ROOT
from support.programs import absent, require

WEB = ROOT / "mpchat" / "web"
# Node 18 knows no WebSocket; from 20.10 on it has one when asked, from 22 on always.
_ASKED, _ALWAYS = (20, 10), (22, 0)


def node_version() -> tuple[int, int]:
    require("node")
    said = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"v(\d+)\.(\d+)", said)
    assert found is not None, said
    return int(found[1]), int(found[2])


def node_packages() -> Path:
    """The folder ``node_modules`` with the packages that npm installs for the bench: ``ws`` is among them."""
    require("npm")
    try:
        return node.modules()
    except BenchError as error:
        absent(f"needs npm's packages: {error}")


def websocket_flags() -> list[str] | None:
    """The flags with which this Node has a WebSocket; None where none gives it one."""
    version = node_version()
    if version >= _ALWAYS:
        return []
    return ["--experimental-websocket"] if version >= _ASKED else None


def modules(folder: Path) -> Path:
    """Copy the page's modules to where each Node takes them as modules."""
    copied = folder / "web"
    shutil.copytree(WEB, copied)
    (copied / "package.json").write_text('{"type": "module"}')
    return copied


def evaluate(folder: Path, program: str, given: object) -> Any:
    """Run a module with ``given`` as JSON on standard input; return what it prints, read as JSON.

    It may import the page's modules from ``./web/``.
    """
    require("node")
    modules(folder)
    path = folder / "program.mjs"
    path.write_text(program, encoding="utf-8")
    done = subprocess.run(
        ["node", str(path)], input=json.dumps(given), capture_output=True, encoding="utf-8", timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
