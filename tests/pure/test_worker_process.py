"""Worker process: what a signal does to a process that has ended."""

import os
import signal
from types import SimpleNamespace

import pytest

from mpchat.supervisor.worker_process import WorkerProcess


@pytest.mark.parametrize("exit_code", [None, 0, -9])
def test_a_process_that_was_waited_for_gets_no_signal(
    monkeypatch: pytest.MonkeyPatch, exit_code: int | None
) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    process = object.__new__(WorkerProcess)
    process._process = SimpleNamespace(exitcode=exit_code)  # type: ignore[assignment]
    process.identity = SimpleNamespace(pid=77)  # type: ignore[assignment]
    process.signal(signal.SIGHUP)
    assert sent == ([(77, signal.SIGHUP)] if exit_code is None else [])
