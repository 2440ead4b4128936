"""The import ladder: who may know whom. Imports inside functions and for type checking count like all others.

The ladder below is the truth; design.md, section 8, is where it began. A module imports only from lines above
its own, so there are no circles, and what does no I/O stays that way.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parent.parent / "mpchat"

# Lowest first. ``mpchat`` is the package's own module, the library's front door.
LADDER = """
errors                  text
protocol.frames         display
config                  protocol.messages    protocol.names
protocol.requests
protocol.session        server.stream        server.room        server.policy
server.rooms
server.people           server.historyfile   server.moderation
server.archive
server.reactor          server.channel       server.process     server.logs       instance
server.wire             server.handoff       server.connection  server.door       control    settings
server.hub              server.fanout        launch
server.worker
server.handle
server.slot             server.reception     server.survey
server.crew
server.changes
server.supervisor
server.__main__
client.core             client.sockets       client.resume
client.conversation     client.lines
client.aio              client.blocking      client.board
client.plain            client.screen
client.terminal
mpchat
cli
__main__
"""
RANKS = {module: rank for rank, line in enumerate(LADDER.strip().splitlines()) for module in line.split()}

# What does no I/O and knows no time: everything it needs is given to it.
PURE = {
    "errors",
    "text",
    "config",
    "protocol.frames",
    "protocol.messages",
    "protocol.names",
    "protocol.requests",
    "protocol.session",
    "server.stream",
    "server.room",
    "server.rooms",
    "server.people",
    "server.policy",
    "client.core",
    "client.lines",
    "client.resume",
    "client.board",
}
IMPURE = {
    "asyncio",
    "fcntl",
    "filelock",
    "io",
    "logging",
    "multiprocessing",
    "os",
    "pathlib",
    "platformdirs",
    "prompt_toolkit",
    "psutil",
    "rich",
    "select",
    "selectors",
    "shutil",
    "signal",
    "socket",
    "sqlite3",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "time",
}


class Import(NamedTuple):
    """One import: of a module of the package (named as in the ladder), or of somebody else's."""

    module: str
    line: int
    ours: bool


def modules() -> dict[str, Path]:
    """Return every module, named as in the ladder; packages that only hold others have nothing to say."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if name == "__init__":
            found["mpchat"] = path
        elif not name.endswith("__init__"):
            found[name] = path
    return found


def imports(name: str, path: Path) -> Iterator[Import]:
    """Go through the whole syntax tree: no import hides in a function or behind TYPE_CHECKING."""
    package = [] if name == "mpchat" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (absolute(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield absolute(f"{node.module}", node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) + 1 - node.level], *filter(None, [node.module])]
            yield from (relative([*base, alias.name], node.lineno) for alias in node.names)


def absolute(module: str, line: int) -> Import:
    return Import(module, line, ours=module.split(".")[0] == "mpchat")


def relative(parts: list[str], line: int) -> Import:
    """``from .a import b`` may mean the module ``a.b`` or a name in the module ``a``."""
    name = ".".join(parts)
    if name not in RANKS:
        name = ".".join(parts[:-1]) or "mpchat"
    if parts == ["__version__"]:  # a number that the package carries; not its front door
        name = "errors"
    return Import(name, line, ours=True)


MODULES = modules()


def test_every_module_has_its_place_and_every_place_its_module() -> None:
    assert set(MODULES) == set(RANKS)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_from_lines_above_its_own(name: str) -> None:
    wrong = [
        f"line {each.line}: {each.module}"
        for each in imports(name, MODULES[name])
        if each.ours and RANKS.get(each.module, len(RANKS)) >= RANKS[name]
    ]
    assert wrong == []


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith(("client.", "server."))])
def test_client_and_server_do_not_know_each_other(name: str) -> None:
    other = "server." if name.startswith("client.") else "client."
    assert [each for each in imports(name, MODULES[name]) if each.module.startswith(other)] == []
    assert [each for each in imports(name, MODULES[name]) if each.module == "mpchat"] == []


@pytest.mark.parametrize("name", sorted(PURE))
def test_a_pure_module_knows_no_clock_no_file_and_no_socket(name: str) -> None:
    assert [each for each in imports(name, MODULES[name]) if each.module.split(".")[0] in IMPURE] == []
    assert [each for each in imports(name, MODULES[name]) if each.ours and each.module not in PURE] == []


def test_the_ladder_is_not_passed_by_an_import_in_a_function_or_for_types(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden.py"
    hidden.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .hub import Hub\n"
        "def f():\n    from ..cli import main\n    import mpchat.client.core\n"
    )
    found = {each.module for each in imports("server.hidden", hidden) if each.ours}
    assert found == {"server.hub", "cli", "mpchat.client.core"}
