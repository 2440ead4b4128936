"""The import ladder. Imports inside functions and for type checking count like all others."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

# The source is the same on each Python.
pytestmark = pytest.mark.one_python

PACKAGE = Path(__file__).parents[2] / "mpchat"

# Lowest first. A module imports only from lines above that of its folder; one of the first level has a line
# of its own. ``mpchat`` is the package's own module, the library's front door.
LADDER = """
errors text cluster_url
log_line
hook_url
protocol
setting_values
config
memory
multiplexer
cgroup
cores memory_limit
keepalive
tunnel
reactor
instance
settings
auth
control
ipc
cluster
hub worker tls
hook
supervisor
inspection
client
mpchat
cli
__main__
"""
RANKS = {part: rank for rank, line in enumerate(LADDER.strip().splitlines()) for part in line.split()}

# Modules that do no I/O and know no time: everything they need is given to them. A folder stands for all of
# its modules.
PURE = {
    "errors",
    "text",
    "log_line",
    "cluster_url",
    "hook.backlog",
    "hook.events",
    "hook.rules",
    "hook_url",
    "setting_values",
    "config",
    "memory",
    "protocol",
    "auth.grant",
    "cluster.store",
    "ipc.addresses",
    "ipc.beat",
    "ipc.http_questions",
    "ipc.durations",
    "ipc.limits",
    "ipc.log_events",
    "ipc.reasons",
    "ipc.stream_buffer",
    "hub.claims",
    "hub.clock_watch",
    "hub.digest",
    "hub.effects",
    "hub.entries",
    "hub.held_names",
    "hub.history",
    "hub.history_age",
    "hub.hosts",
    "hub.limits",
    "hub.members",
    "hub.moderation",
    "hub.past",
    "hub.replay",
    "hub.rooms",
    "hub.saved",
    "hub.sender_holds",
    "hub.sequencer",
    "hub.snapshot",
    "ipc.shares",
    "hub.state",
    "supervisor.balance_policy",
    "supervisor.capacity",
    "supervisor.connect_rates",
    "supervisor.placement_policy",
    "supervisor.restart_policy",
    "worker.post_timing",
    "client.core",
    "client.lines",
    "client.proof",
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
    """One import: of a module of the package (without the package's name), or of another package's."""

    module: str
    line: int
    ours: bool

    @property
    def part(self) -> str:
        """The module's folder, or its own name on the first level."""
        return self.module.split(".")[0]


def find_modules() -> dict[str, Path]:
    """Return every module by its name without the package's; the package itself is ``mpchat``."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        found["mpchat" if name == "__init__" else name] = path
    return found


MODULES = find_modules()


def imports(path: Path) -> Iterator[Import]:
    """Go through the whole syntax tree: no import hides in a function or behind TYPE_CHECKING."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (named(alias.name, "", node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}, line {node.lineno}: a relative import"
            yield from (named(f"{node.module}", alias.name, node.lineno) for alias in node.names)


def named(module: str, name: str, line: int) -> Import:
    """``from a import b`` may mean the module ``a.b`` or a name in the module ``a``."""
    package, _, inside = module.partition(".")
    if package != "mpchat":
        return Import(module, line, ours=False)
    whole = ".".join(filter(None, [inside, name]))
    if whole == "__version__":  # a number that the package carries; not its front door
        return Import("errors", line, ours=True)
    return Import(whole if whole in MODULES else inside or "mpchat", line, ours=True)


def is_pure(name: str) -> bool:
    return name in PURE or name.split(".")[0] in PURE


def test_every_part_has_its_line_and_every_line_its_parts() -> None:
    assert {name.split(".")[0] for name in MODULES} == set(RANKS)


def test_every_pure_module_is_there() -> None:
    assert {name for name in PURE if name not in MODULES} == set()


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_from_lines_above_its_own(name: str) -> None:
    part = name.split(".")[0]
    wrong = [
        f"line {each.line}: {each.module}"
        for each in imports(MODULES[name])
        if each.ours and each.part != part and RANKS[each.part] >= RANKS[part]
    ]
    assert wrong == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: {each.module for each in imports(path) if each.ours} for name, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(error.args[1]))


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("client.")])
def test_the_client_does_not_know_the_server(name: str) -> None:
    server = {
        "reactor",
        "ipc",
        "instance",
        "control",
        "hub",
        "worker",
        "hook",
        "supervisor",
        "settings",
        "inspection",
        "mpchat",
    }
    assert [each for each in imports(MODULES[name]) if each.ours and each.part in server] == []


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith(("supervisor.", "cli."))])
def test_only_the_supervisor_starts_processes(name: str) -> None:
    starters = {"subprocess", "multiprocessing"}
    # The channel's queues and a process's look at its parent are no starts.
    if name in ("ipc.channel", "worker.worker", "tls.terminator"):
        starters.remove("multiprocessing")
    assert [each for each in imports(MODULES[name]) if each.part in starters] == []


@pytest.mark.parametrize("name", [name for name in MODULES if is_pure(name)])
def test_a_pure_module_knows_no_clock_no_file_and_no_socket(name: str) -> None:
    found = list(imports(MODULES[name]))
    assert [each for each in found if not each.ours and each.part in IMPURE] == []
    assert [each for each in found if each.ours and not is_pure(each.module)] == []


def reached(*names: str, without: str = "") -> set[str]:
    """Return the modules of the package that importing ``names`` loads, themselves included.

    What only the module ``without`` loads is left out.
    """
    seen = {without}
    todo = list(names)
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += [each.module for each in imports(MODULES[name]) if each.ours]
    return seen - {without}


def test_a_worker_loads_no_library_of_the_guard() -> None:
    """A worker holds its share of a lock with five lines of ``flock``; see ``ipc.worker_lock``."""
    loaded = {
        each.part for name in reached("worker.worker") for each in imports(MODULES[name]) if not each.ours
    }
    assert loaded.isdisjoint({"filelock", "psutil", "platformdirs", "click", "rich", "prompt_toolkit"})
    assert loaded.isdisjoint({"jwt", "cryptography", "confusable_homoglyphs", "sqlite3"})


LATE = {"inspection.inspect", "inspection.findings"}


def test_a_command_does_not_load_the_loop_of_a_server() -> None:
    """Commands are started by hand, and in scripts many times: they load what they need to ask a server."""
    server = {"reactor", "ipc", "hub", "worker", "control.server", "supervisor.supervisor"}
    # An inspection asks what a start asks; it is loaded when it is asked for.
    modules = ("__main__", "cli.commands", "control.client", "supervisor.startup")
    found = reached(*modules, without="inspection.inspect")
    assert {each.module for each in imports(MODULES["cli.check"]) if each.part == "inspection"} <= LATE
    assert {name for name in found if name in server or name.split(".")[0] in server} == set()


def test_the_ladder_is_not_passed_by_an_import_in_a_function_or_for_types(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden.py"
    hidden.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mpchat.hub.hub import Hub\n"
        "def f():\n    from mpchat.cli.commands import main\n    import mpchat.client.core\n"
    )
    found = {each.module for each in imports(hidden) if each.ours}
    assert found == {"hub.hub", "cli.commands", "client.core"}
