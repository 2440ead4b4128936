"""What every test gets: a folder for its servers, and a look afterwards at what it left behind."""

import gc
import json
import os
import signal
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, settings
from support.harness import Server, assert_nothing_left, leftovers, running

from mpchat.control.client import ask
from mpchat.control.requests import Status
from mpchat.hub.sequencer import NOTICE_GATHER

# Hundreds of interpreters start here, and none of them should compile the package again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# A shell that starts the tests in the background lets them ignore Ctrl-C, and programs inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says more about what else the machine does than about the code.
settings.register_profile("mpchat", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mpchat")


# Characters of a server's log that are shown with a failure.
LOG_SHOWN = 20_000

# Folders of tests, those first whose files take longest: when files run side by side, short ones come last,
# and no process is left alone with a long one.
FOLDERS = ("scripts", "processes", "browser", "terminal", "sockets", "pure")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long files first: by folder, and within a folder those first that run on one Python alone."""
    items.sort(
        key=lambda item: (FOLDERS.index(item.path.parent.name), item.get_closest_marker("one_python") is None)
    )


def pytest_collection_finish() -> None:
    """Spare the collector the thousands of collected tests: a look at all of them takes 0.2 s of CPU."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failure what the servers of the test have logged, and their status if they still answer."""
    report = yield
    if report.when == "call" and report.failed:
        for each in item.funcargs.values():
            folder = each.folder if isinstance(each, Server) else each
            if isinstance(folder, Path):
                report.sections += _told_by_servers(folder)
    return report


def _told_by_servers(folder: Path) -> Iterator[tuple[str, str]]:
    """Return what the log of each server in a folder ends with, and the status of those that still answer."""
    for log in folder.glob("run/*/server.log"):
        with suppress(Exception):  # whatever the test has done to its files and its server
            yield f"log of the server {log.parent.name}", log.read_text(errors="replace")[-LOG_SHOWN:]
            told = ask(log.parent / "control.sock", Status(), timeout=2.0).result
            yield f"status of the server {log.parent.name}", json.dumps(told, ensure_ascii=False)


@pytest.fixture(scope="session", autouse=True)
def as_installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Spare what this process starts the packages that only tests bring, and that others load where they are.

    msgspec loads typing_extensions, which is here for selenium: 25 ms of CPU in each process of a server.
    """
    absent = tmp_path_factory.mktemp("absent")
    (absent / "typing_extensions.py").write_text("raise ImportError\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(absent), prepend=os.pathsep)
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for runtime files; a server process that outlives the test fails it."""
    yield tmp_path
    try:
        assert_nothing_left(tmp_path)
    except AssertionError:
        left = leftovers(tmp_path)
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=5.0)
        raise


@pytest.fixture
def commands_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each command an interpreter of its own: for files in which the command itself is tested."""
    monkeypatch.setattr(Server, "apart", True)


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    """A server with two workers on a free port."""
    with running(folder) as started:
        yield started


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two workers on a free port, for all tests of a file that leave it as it was."""
    folder = tmp_path_factory.mktemp("lasting")
    with running(folder) as started:
        yield started
    assert_nothing_left(folder)


@pytest.fixture
def shared(lasting: Server) -> Server:
    """The file's server, with two workers that serve, no client, and no notice that is still to come."""
    assert len(lasting.wait_until_running()["workers"]) == 2
    lasting.wait_for_connections(0)
    time.sleep(3 * NOTICE_GATHER)
    return lasting
