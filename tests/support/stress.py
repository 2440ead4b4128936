"""Running the stress tests from tests: the command, faults in the server that it starts, and what it left."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from scripts.stress.findings import KINDS, Findings
from support.harness import Server
from support.injected import inject

ROOT = Path(__file__).resolve().parents[2]
# Seconds for a run; on two busy cores each command of mpchat takes some.
LONGEST_RUN = 240
COMMAND = (sys.executable, "-m", "scripts.stress")


def only(findings: Findings, **expected: int) -> None:
    """Check that ``findings`` are those expected and no others."""
    assert set(expected) <= set(KINDS)
    found = {kind: count for kind, count in findings.counts.items() if count}
    assert found == {kind: count for kind, count in expected.items() if count}, findings.examples


def stress(scenario: str, *flags: str) -> tuple[int, dict[str, Any]]:
    """Run a scenario; return its exit code and its verdict."""
    pipe = subprocess.PIPE
    command = [*COMMAND, scenario, "--json", *flags]
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as run:
        try:
            printed, errors = run.communicate(timeout=LONGEST_RUN)
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGINT)  # a run that is interrupted leaves nothing behind
            run.communicate(timeout=60)
            pytest.fail(f"the run took more than {LONGEST_RUN} s")
    assert printed, errors
    assert not errors, errors
    verdict: dict[str, Any] = json.loads(printed)
    return run.returncode, verdict


def broken(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """Have a fault in the workers of the server that the next run starts."""
    carrier = Server(tmp_path_factory.mktemp("fault"))
    inject(carrier, fault)
    monkeypatch.setenv("PYTHONPATH", carrier.environment["PYTHONPATH"])


def left_by_run(folder: Path) -> list[psutil.Process]:
    """Return the living processes that were started with ``folder`` as their place for temporary files."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("TMPDIR") == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Let the run keep its files here, and check that nothing of it is left, neither files nor processes."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    yield tmp_path
    assert list(tmp_path.iterdir()) == []
    assert not psutil.wait_procs(left_by_run(tmp_path), timeout=10)[1]
