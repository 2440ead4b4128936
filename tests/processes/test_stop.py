"""The end, and the signals: everybody gets what was accepted, the end comes in time, nothing is left."""

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from support.changing import configured, reload, write_settings
from support.crowd import (
    Listener,
    by_sender,
    everybody_hears,
    facts,
    last_for,
    listeners,
    numbered,
    payloads,
    sending,
    worker_pids,
)
from support.harness import Client, Server, frame, in_foreground, running, settle, stopped
from support.waiting import eventually

BEGIN, END = "= begin =", "= end ="
FAREWELL = "The server is stopping."
# Seconds that ending may take beyond what was set, on a machine that is busy with something else.
MARGIN = 6.0
# Seconds that others may outlive the supervisor: the resource tracker ends once its pipe has no writer.
TRAILING = 2.0


def signalled(server: Server, *numbers: signal.Signals) -> list[psutil.Process]:
    """Send signals to the supervisor; returns the processes that are to end."""
    processes = server.processes()
    for number in numbers:
        os.kill(processes[0].pid, number)
    return processes


def all_gone(processes: list[psutil.Process], timeout: float) -> None:
    _, alive = psutil.wait_procs(processes, timeout=timeout)
    # What nobody has waited for yet has ended all the same.
    alive = [each for each in alive if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    assert not alive, f"still there after {timeout:g} s: {alive}"


@contextmanager
def stalled_client(server: Server, behind: int = 4 << 20) -> Iterator[Client]:
    """A client that never reads, and for whom much more than a socket's buffers lies ready."""
    with Client(server.address) as client, Client(server.address) as speaker:
        settle([client, speaker])
        text = " " * 50_000
        for _ in range(behind // len(text)):
            speaker.send_raw(frame(text))
            speaker.hear()
        eventually(lambda: any(each["late"] for each in facts(server)["workers"]), "a client to be late")
        yield client


def whole_stream(client: Listener) -> bytes:
    """What came after the beginning; it must end at a frame's end."""
    data = bytes(client.data)
    begin = data.index(BEGIN.encode())
    list(payloads(data[data.rindex(b"\0", 0, begin) :]))
    return data[begin:]


def test_stop_with_a_client_that_never_reads_ends_in_time(folder: Path) -> None:
    with running(folder, "--stop-timeout", "2s") as server, stalled_client(server):
        with listeners(server, 3) as crowd:
            crowd[0].say(END)
            everybody_hears(crowd, END)
            processes = server.processes()
            begun = time.monotonic()
            assert server.stop().returncode == 0
            assert time.monotonic() - begun < 2.0 + MARGIN
            all_gone(processes, TRAILING)
            eventually(lambda: all(each.ended is not None for each in crowd), "connections to end")
            assert [each.ended for each in crowd] == ["", "", ""], "an orderly end was expected"


def test_stop_under_load_everybody_gets_the_same_to_the_end_and_an_orderly_close(folder: Path) -> None:
    with running(folder, workers=3) as server, listeners(server, 12) as crowd:
        crowd[0].say(BEGIN)
        everybody_hears(crowd, BEGIN)
        texts = [numbered(str(number), 30_000) for number in range(4)]
        with sending(crowd[:4], texts):
            eventually(lambda: crowd[11].heard("3 300"), "the load")
            assert server.stop().returncode == 0
            eventually(lambda: all(each.ended is not None for each in crowd), "connections to end")
        silent = crowd[4:]
        assert [each.ended for each in silent] == [""] * 8, "an orderly end was expected"
        streams = {whole_stream(each) for each in silent}
        assert len(streams) == 1
        assert silent[0].texts[-1] == FAREWELL
        for numbers in by_sender(silent[0].texts).values():
            assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize(
    ("flags", "last"),
    [((), FAREWELL), (("--farewell", '안녕히 "가세요"'), '안녕히 "가세요"'), (("--farewell", ""), END)],
)
def test_the_farewell_is_the_last_message_or_there_is_none(
    folder: Path, flags: tuple[str, ...], last: str
) -> None:
    workers = 1 if flags else 2  # that all workers end with it, the first case shows
    with running(folder, *flags, workers=workers) as server, listeners(server, 6) as crowd:
        crowd[0].say(END)
        everybody_hears(crowd, END)
        assert server.stop().returncode == 0
        eventually(lambda: all(each.ended is not None for each in crowd), "connections to end")
        assert [each.ended for each in crowd] == [""] * 6
        assert [each.texts[-1] for each in crowd] == [last] * 6


def test_nothing_comes_after_the_farewell_although_others_go_first(folder: Path) -> None:
    """One worker has to wait for a client, the other ends at once, and some leave just before."""
    with running(folder, "--stop-timeout", "2s") as server, stalled_client(server):
        with listeners(server, 7) as crowd:
            crowd[0].say(END)
            everybody_hears(crowd, END)
            crowd.pop().close()
            crowd.pop().close()
            assert server.stop().returncode == 0
            eventually(lambda: all(each.ended is not None for each in crowd), "connections to end")
            assert [each.texts[-1] for each in crowd] == [FAREWELL] * 5
            assert [each.texts.count(FAREWELL) for each in crowd] == [1] * 5


def test_a_farewell_that_a_reload_brought(folder: Path) -> None:
    with configured(folder) as server, listeners(server, 2) as crowd:
        write_settings(server, port=0, workers=2, farewell="until tomorrow")
        assert reload(server)["changed"] == ["farewell"]
        assert server.stop().returncode == 0
        eventually(lambda: all(each.ended is not None for each in crowd), "connections to end")
        assert [each.texts[-1] for each in crowd] == ["until tomorrow"] * 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_term_and_int_end_it_with_code_0_and_no_traceback(folder: Path, number: signal.Signals) -> None:
    server = Server(folder)
    with in_foreground(server, "--workers", "1") as process, listeners(server, 2) as crowd:
        processes = server.processes()
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 0
        assert "Traceback" not in errors
        assert f"signal {number.name}" in errors
        all_gone(processes, TRAILING)
        eventually(lambda: [each.ended for each in crowd] == ["", ""], "an orderly end")


def test_a_second_signal_shortens_a_stop_that_waits_for_a_client_that_never_reads(folder: Path) -> None:
    with running(folder, "--stop-timeout", "60s", workers=1) as server, stalled_client(server):
        processes = signalled(server, signal.SIGTERM)
        eventually(lambda: facts(server)["state"] == "STOPPING", "the stop to begin")
        os.kill(processes[0].pid, signal.SIGTERM)
        all_gone(processes, MARGIN)


def test_two_signals_at_the_same_moment(folder: Path) -> None:
    with running(folder, "--stop-timeout", "60s", workers=1) as server, stalled_client(server):
        all_gone(signalled(server, signal.SIGTERM, signal.SIGINT), MARGIN)


def test_a_stopped_worker_is_killed_after_the_deadline_and_the_others_end_in_order(folder: Path) -> None:
    with running(folder, "--stop-timeout", "1s") as server, listeners(server, 2) as crowd:
        with stopped(worker_pids(server)[0]):
            all_gone(signalled(server, signal.SIGTERM), 1.0 + MARGIN)
        eventually(lambda: all(each.ended is not None for each in crowd), "connections to end")
        assert "" in [each.ended for each in crowd]
        assert "not ended in time, killed: workers [1]" in server.log


def test_usr1_opens_a_new_log_after_the_old_one_was_moved_and_usr2_writes_all_stacks_there(
    shared: Server,
) -> None:
    log = shared.instance_folder / "server.log"
    moved = log.rename(log.with_suffix(".old"))
    processes = signalled(shared, signal.SIGUSR1)
    using = [each.pid for each in processes if "resource_tracker" not in " ".join(each.cmdline())]
    eventually(lambda: {standard_error(pid) for pid in using} == {str(log)}, "all to use the new log")
    before = moved.stat().st_size
    os.kill(processes[0].pid, signal.SIGUSR2)
    stacks = (r'supervisor\.py", line \d+ in _turn', r'worker\.py", line \d+ in turn')
    eventually(
        lambda: [len(re.findall(each, shared.log)) for each in stacks] == [1, 2], "three processes' stacks"
    )
    assert moved.stat().st_size == before


def standard_error(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/fd/2")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGTTIN])
def test_a_signal_that_is_meant_for_the_supervisor_does_nothing_to_a_worker(
    shared: Server, number: signal.Signals
) -> None:
    pids = worker_pids(shared)
    with listeners(shared, 2) as crowd:
        for pid in pids:
            os.kill(pid, number)
        crowd[0].say(END)
        everybody_hears(crowd, END)
        assert worker_pids(shared) == pids


def test_supervisor_killed_leaves_no_worker_also_when_one_is_stopped(server: Server) -> None:
    supervisor, *below = server.processes()
    with listeners(server, 4), stopped(worker_pids(server)[0]):
        supervisor.kill()
        all_gone([supervisor, *below], TRAILING)


def test_supervisor_killed_under_load_the_next_start_works_at_once(server: Server) -> None:
    with listeners(server, 4) as crowd:
        with sending(crowd, [numbered(str(number), 50_000) for number in range(4)]):
            last_for(0.3)
            processes = server.processes()
            processes[0].kill()
            all_gone(processes, TRAILING)
    server.start(workers=1)
    with listeners(server, 2) as crowd:
        crowd[0].say(END)
        everybody_hears(crowd, END)
