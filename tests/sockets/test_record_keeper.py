"""The record on disk follows what the server is, and its loss harms nothing."""

import logging
import os
from pathlib import Path

import pytest

from mpchat.instance.record import Identity, read_record
from mpchat.supervisor.record_keeper import RecordKeeper

ME, WORKER = Identity(os.getpid(), 1.0), Identity(4711, 2.0)


def test_the_record_has_the_addresses_and_the_processes_of_now(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    keeper = RecordKeeper(path, ME, started=5.0)
    assert read_record(path) is None
    keeper.set_addresses(["127.0.0.1:4000"])
    keeper.set_workers([WORKER])
    record = read_record(path)
    assert record is not None
    assert (record.supervisor, record.started) == (ME, 5.0)
    assert (record.addresses, record.workers) == (["127.0.0.1:4000"], [WORKER])
    assert keeper.processes == [ME, WORKER]
    keeper.set_workers([])
    assert keeper.processes == [ME]
    record = read_record(path)
    assert record is not None
    assert record.workers == []


def test_a_record_that_was_deleted_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    keeper = RecordKeeper(path, ME, started=5.0)
    keeper.set_workers([WORKER])
    before = path.read_bytes()
    keeper.heal()
    path.unlink()
    keeper.heal()
    assert path.read_bytes() == before
    keeper.remove()
    assert not path.exists()
    keeper.remove()


def test_a_record_that_cannot_be_written_is_logged_and_the_server_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("mpchat"), "propagate", True)
    keeper = RecordKeeper(tmp_path / "gone" / "record.json", ME, started=5.0)
    keeper.set_workers([WORKER])
    assert "record not written: No such file or directory" in caplog.text
    assert keeper.processes == [ME, WORKER]
