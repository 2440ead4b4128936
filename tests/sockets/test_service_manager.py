"""What a service manager is told and gives, with real sockets: order, a full socket, given listeners."""

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.leftovers import nothing_left_behind
from support.service_manager import Hearing, hearing

from mpchat.errors import StartError
from mpchat.supervisor.given_listeners import FIRST
from mpchat.supervisor.service_manager import GivenSockets, ServiceManager
from mpchat.supervisor.starter import find_manager
from mpchat.supervisor.systemd import (
    BEAT_EARLY,
    EXTEND_EVERY,
    STATUS_EVERY,
    STATUS_LENGTH,
    Systemd,
    watchdog_seconds,
)

ME = str(os.getpid())


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Hearing]:
    with hearing(tmp_path) as heard:
        yield heard


@pytest.fixture
def told(manager: Hearing) -> Iterator[Systemd]:
    """The server's side; a beat is wanted every 30 s."""
    made = Systemd(manager.address, watchdog=30.0)
    made.describe = lambda: "connections: 0"
    yield made
    made.close()


def test_the_states_come_in_order_and_a_reload_says_when_it_began(manager: Hearing, told: Systemd) -> None:
    told.ready()
    assert manager.hear() == {"READY": "1", "MAINPID": ME, "STATUS": "connections: 0"}
    told.reloading()
    began = manager.hear()
    assert (began["RELOADING"], began["STATUS"]) == ("1", "reloading")
    assert int(began["MONOTONIC_USEC"]) > 0
    told.describe = lambda: "the last reload failed: no"
    told.reloaded()
    assert manager.hear() == {"READY": "1", "STATUS": "the last reload failed: no"}
    told.stopping("signal SIGTERM")
    assert manager.hear() == {"STOPPING": "1", "STATUS": "stopping: signal SIGTERM"}


def test_a_reload_that_a_stop_ends_is_not_ready_again(manager: Hearing, told: Systemd) -> None:
    told.reloading()
    told.stopping("signal SIGTERM")
    told.reloaded()
    told.reloading()
    manager.hear_all()
    assert manager.states() == ["RELOADING", "STOPPING"]


def test_a_line_break_in_a_status_is_no_further_message(manager: Hearing, told: Systemd) -> None:
    told.stopping("evil\nREADY=1" + "x" * 1000)
    heard = manager.hear()
    assert set(heard) == {"STOPPING", "STATUS"}
    assert heard["STATUS"].startswith("stopping: evil\\nREADY=1x")
    assert len(heard["STATUS"]) == STATUS_LENGTH


def test_an_abstract_socket_is_told_too(tmp_path: Path) -> None:
    manager = Hearing(f"@mpchat-test-{ME}-{tmp_path.name}")
    told = Systemd(manager.address)
    try:
        told.ready()
        assert manager.hear()["READY"] == "1"
    finally:
        told.close()
        manager.close()


def test_a_beat_comes_before_half_of_its_time_is_over(manager: Hearing, told: Systemd) -> None:
    told.ready()
    assert told.beat_every == 15.0
    for second in range(100):
        told.beat(1000.0 + second)
    beats = [each for each in manager.hear_all() if "WATCHDOG" in each]
    assert len(beats) >= 100 // 15
    assert len(beats) <= 100 // (15 - BEAT_EARLY) + 1


def test_short_times_get_a_beat_each_round(manager: Hearing) -> None:
    told = Systemd(manager.address, watchdog=0.4)
    told.ready()
    manager.hear()
    # Rounds come a moment too early and too late for exactly half of the time.
    for now in (100.0, 100.199, 100.401):
        told.beat(now)
        assert "WATCHDOG" in manager.hear(0.0)
    told.close()


def test_without_a_watchdog_there_is_no_beat(manager: Hearing) -> None:
    told = Systemd(manager.address)
    told.ready()
    told.beat(1e9)
    assert not [each for each in manager.hear_all() if "WATCHDOG" in each]
    told.close()


def test_time_is_asked_for_while_it_starts_reloads_or_stops_and_not_while_it_serves(
    manager: Hearing, told: Systemd
) -> None:
    def extended(now: float) -> bool:
        told.beat(now)
        return any("EXTEND_TIMEOUT_USEC" in each for each in manager.hear_all())

    assert extended(0.0)
    assert not extended(1.0)
    assert extended(EXTEND_EVERY)
    told.ready()
    assert not extended(100.0)
    told.reloading()
    assert extended(200.0)
    told.reloaded()
    assert not extended(300.0)
    told.stopping("")
    assert extended(400.0)


def test_the_status_follows_seldom_and_only_when_it_has_changed(manager: Hearing, told: Systemd) -> None:
    told.ready()
    lines = iter(["connections: 0", "connections: 1", "connections: 1", "connections: 2"])
    told.describe = lambda: next(lines)
    for now in range(100, 100 + 3 * int(STATUS_EVERY)):
        told.beat(float(now))
    heard = [each["STATUS"] for each in manager.hear_all() if "STATUS" in each]
    assert heard == ["connections: 0", "connections: 1"]


def test_a_full_socket_blocks_nothing_and_hears_of_each_state_later(
    manager: Hearing, told: Systemd, caplog: pytest.LogCaptureFixture
) -> None:
    for now in range(0, 100_000, 20):
        told.beat(float(now))
    assert told.failures > 1000
    told.ready()
    told.reloading()
    told.reloaded()
    told.stopping("now")
    assert caplog.text.count("service manager not told") == 1
    assert "READY" not in {key for each in manager.hear_all() for key in each}
    told.beat(200_000.0)
    assert [sorted(each) for each in manager.hear_all()][:4] == [
        ["MAINPID", "READY", "STATUS"],
        ["MONOTONIC_USEC", "RELOADING", "STATUS"],
        ["READY", "STATUS"],
        ["STATUS", "STOPPING"],
    ]
    assert told.failures == 0


@pytest.mark.parametrize(
    "address", ["/nowhere/at/all", "vsock:2:1", "/" + "x" * 200, "@" + "x" * 200, "/a\0b"]
)
def test_an_address_without_a_listener_is_a_line_in_the_log(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    told = Systemd(address, watchdog=1.0)
    for now in range(100):
        told.beat(float(now))
    told.ready()
    told.close()
    assert told.failures > 100
    assert caplog.text.count("service manager not told") == 1


def test_a_failure_has_the_systems_error_and_the_exit_code(manager: Hearing, told: Systemd) -> None:
    def cannot_listen() -> None:
        try:
            raise OSError(errno.EADDRINUSE, "taken")
        except OSError:
            raise StartError("127.0.0.1:4000 is taken") from None

    with pytest.raises(StartError) as raised:
        cannot_listen()
    told.failed(raised.value)
    expected = {"STATUS": "127.0.0.1:4000 is taken", "ERRNO": str(errno.EADDRINUSE), "EXIT_STATUS": "5"}
    assert manager.hear() == expected
    told.failed(StartError("no worker"))
    assert manager.hear() == {"STATUS": "no worker", "EXIT_STATUS": "5"}


@pytest.mark.parametrize(
    ("period", "pid", "seconds"),
    [
        ("30000000", "mine", 30.0),
        ("30000000", "", 30.0),
        ("30000000", "1", None),
        ("", "mine", None),
        ("0", "mine", None),
        ("-5", "mine", None),
        ("3e7", "mine", None),
        ("9" * 400, "mine", None),
    ],
)
def test_a_watchdog_that_is_meant_for_this_process(period: str, pid: str, seconds: float | None) -> None:
    assert watchdog_seconds(period, ME if pid == "mine" else pid) == seconds


# Finding it.


def variables(**more: str) -> dict[str, str]:
    given = {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": ME}
    return {"PATH": "/bin", "JOURNAL_STREAM": "8:1", "LISTEN_PIDFDID": "1", **given, **more}


def test_its_variables_are_removed_whatever_they_say() -> None:
    for foreground in (True, False):
        environment = variables(LISTEN_PID="1", LISTEN_FDS="nonsense", LISTEN_FDNAMES="a:b")
        found = find_manager(environment, foreground=foreground)
        assert environment == {"PATH": "/bin", "JOURNAL_STREAM": "8:1"}
        assert isinstance(found, Systemd) == foreground
        assert found.take_listeners() == []
        found.close()


def test_a_server_in_the_background_is_no_service() -> None:
    found = find_manager(variables(LISTEN_PID=ME, LISTEN_FDS="1"), foreground=False)
    assert type(found) is ServiceManager
    assert found.take_listeners() == []


def test_without_a_socket_to_tell_sockets_are_still_given() -> None:
    found = find_manager({"LISTEN_PID": ME, "LISTEN_FDS": "nonsense"}, foreground=True)
    assert type(found) is ServiceManager
    with pytest.raises(StartError, match="LISTEN_FDS is 'nonsense': no number of sockets"):
        found.take_listeners()


# Given listeners, in a process of their own: their numbers begin at 3.

TAKER = """
import os, socket, sys
from mpchat.errors import StartError
from mpchat.supervisor.given_listeners import take_listeners
try:
    taken = take_listeners(sys.argv[1], sys.argv[2])
except StartError as error:
    print(error)
    print(sum(os.path.exists(f"/proc/self/fd/{n}") for n in range(3, 3 + int(sys.argv[3]))))
else:
    for each in taken:
        print(each.getsockname()[0], each.fileno(), each.get_inheritable(), each.getblocking())
"""


def take(*sockets: socket.socket, count: str = "", names: str = "") -> list[str]:
    """Give sockets to a process as its descriptors from 3 on; return what it says."""
    copies = [os.dup(each.fileno()) for each in sockets]

    def in_place() -> None:
        for place, copy in enumerate(copies):
            os.dup2(copy, 50 + place)
        for place in range(len(copies)):
            os.dup2(50 + place, FIRST + place)

    told = subprocess.run(
        [sys.executable, "-c", TAKER, count or str(len(sockets)), names, str(len(sockets))],
        preexec_fn=in_place,
        close_fds=False,
        capture_output=True,
        text=True,
        check=True,
    )
    for copy in copies:
        os.close(copy)
    return told.stdout.splitlines()


def test_listeners_of_both_families_are_taken_and_not_inherited_further() -> None:
    with socket.create_server(("127.0.0.1", 0)) as four:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as six:
            assert take(four, six) == ["127.0.0.1 3 False False", "::1 4 False False"]


def test_what_no_client_can_come_in_by_is_refused_by_its_name() -> None:
    where = "descriptor 3 (chat.socket) of the service manager"
    with socket.socket(socket.AF_UNIX) as local, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        with socket.socket() as silent, socket.create_server(("127.0.0.1", 0)) as good:
            said = take(local, names="chat.socket")[0]
            assert said == f"{where} is no TCP socket; use ListenStream= with an IP address and a port"
            said = take(datagrams, names="chat.socket:more")[0]
            assert said == f"{where} is no TCP socket; use ListenStream= instead of ListenDatagram="
            said = take(silent)[0]
            told = "descriptor 3 of the service manager does not listen; leave Accept= out of the socket unit"
            assert said == told
            # Those before it are closed.
            assert take(good, silent)[-1] == "0"


def test_a_descriptor_that_is_no_socket_or_not_there_is_refused() -> None:
    with open(os.devnull) as file:
        with socket.socket() as place:
            os.dup2(file.fileno(), place.fileno())
            assert "is no socket: Socket operation on non-socket; look at" in take(place)[0]
    with socket.create_server(("127.0.0.1", 0)) as good:
        assert "is no socket: Bad file descriptor" in take(good, count="9")[0]


@pytest.mark.parametrize("count", ["", "x", "-1", "1e9", "99999999999", "³"])
def test_a_count_that_is_no_number_is_refused(count: str) -> None:
    with nothing_left_behind(), pytest.raises(StartError, match="no number of sockets"):
        ServiceManager(GivenSockets(count, "")).take_listeners()


def test_no_socket_at_all_is_none() -> None:
    assert ServiceManager(GivenSockets("0", "")).take_listeners() == []
