"""A reload moves every connection to another process; no client can tell from what it sends and gets."""

import json
import os
import re
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from support.changing import (
    NOT_STARTED,
    OK,
    InBackground,
    change,
    configured,
    generations,
    reload,
    scale,
    server_address,
    stalled,
    workers_of,
    write_settings,
)
from support.crowd import (
    Listener,
    all_speak,
    connected,
    connections,
    descriptors_given_back,
    everybody_heard_of_leaving,
    everybody_hears,
    facts,
    last_for,
    listeners,
    payloads,
    worker_pids,
)
from support.harness import (
    Client,
    Server,
    assert_nothing_left,
    clients,
    frame,
    introduce,
    raw_frame,
    running,
    settle,
)
from support.waiting import eventually

from mpchat.hub.sequencer import NOTICE_GATHER

pytestmark = pytest.mark.one_python

BEGIN, END = "= begin =", "= end ="
# Bytes that each of many clients is behind: far more than socket buffers hold, far less than the lag limit.
BEHIND = 3 << 20


def encoded(text: str) -> bytes:
    return raw_frame(json.dumps({"message": text}, ensure_ascii=False, separators=(",", ":")).encode())


def from_begin_to_end(data: bytes) -> bytes:
    """The stream between the two marks."""
    return data[data.index(encoded(BEGIN)) : data.index(encoded(END))]


def fall_behind(server: Server, speaker: Listener, count: int, size: int = BEHIND) -> None:
    """Have so much said, in frames of all lengths, that ``count`` clients that do not read are late."""
    said = number = 0
    while said < size:
        text = f"{number} " + chr(65 + number % 26) * (number * 7919 % 50_000)
        speaker.say(text)
        said += len(text)
        number += 1
    speaker.say("= all said =")
    everybody_hears([speaker], "= all said =")
    eventually(
        lambda: sum(each["late"] for each in facts(server)["workers"]) >= count, "clients to be late", 10.0
    )


# What a client had sent in part.


def test_a_frame_cut_anywhere_is_whole_after_the_reload(shared: Server) -> None:
    texts = [f"{number} " + "x" * length for length in (20, 40_000) for number in range(8)]
    whole = [frame(each) for each in texts]
    cuts = [cut % len(each) for each, cut in zip(whole, 2 * [1, 2, 3, 5, 17, 30, -1, -2], strict=True)]
    with descriptors_given_back(shared), listeners(shared, len(texts)) as crowd:
        crowd[0].say(BEGIN)
        everybody_hears(crowd, BEGIN)
        for each, data, cut in zip(crowd, whole, cuts, strict=True):
            each.send_raw(data[:cut])
        before = worker_pids(shared)
        assert reload(shared)["moved"] == len(texts)
        assert not set(before) & set(worker_pids(shared))
        for each, data, cut in zip(crowd, whole, cuts, strict=True):
            each.send_raw(data[cut:])
        for text in texts:
            everybody_hears(crowd, text)
        crowd[0].say(END)
        everybody_hears(crowd, END)
        assert len({from_begin_to_end(bytes(each.data)) for each in crowd}) == 1
        assert sorted(crowd[0].texts) == sorted([BEGIN, *texts, END])


def test_a_frame_sent_piece_by_piece_with_a_reload_after_each(folder: Path) -> None:
    """Cut in the header, in the payload and in a character, and more frames behind it."""
    data = frame("한")
    cuts = [0, 1, 6, data.index("한".encode()) + 1, len(data)]
    with running(folder, workers=1) as server, clients(server, 2) as (one, other):
        for begin, end in pairwise(cuts):
            one.send_raw(data[begin:end])
            reload(server)
        other.say("and on")
        assert [one.hear(), one.hear()] == [other.hear(), other.hear()] == ["한", "and on"]
        assert facts(server)["moves"] == 2 * (len(cuts) - 1)


def test_the_rest_of_a_payload_over_the_limit_is_skipped_by_the_next_worker(shared: Server) -> None:
    with clients(shared, 2) as (one, other):
        one.send_raw(struct.pack(">H", 65_000) + b"{" * 30_000)
        assert (one.receive() or {})["error"]["code"] == "too_long"
        reload(shared)
        one.send_raw(b"{" * 20_000)
        reload(shared)
        one.send_raw(b"{" * 15_000 + frame("afterwards"))
        assert one.hear() == other.hear() == "afterwards"


# What a client had not yet read.


def test_clients_in_the_middle_of_the_stream_get_the_rest_of_it_byte_for_byte(shared: Server) -> None:
    """Half a frame is in the socket, megabytes are to come; twice moved before they read on."""
    with descriptors_given_back(shared), stalled(shared, 6) as late, listeners(shared, 2) as prompt:
        prompt[0].say(BEGIN)
        fall_behind(shared, prompt[0], len(late))
        assert reload(shared)["moved"] == 8
        eventually(lambda: sum(each["late"] for each in facts(shared)["workers"]) == 6, "the late to be so")
        assert late[0].sock.recv(70_000)[:1] == b"\0", "the first is let on a little, into another frame"
        late[0].close()
        assert reload(shared)["moved"] in (7, 8)
        prompt[1].say("after the second reload")
        prompt[0].say(END)
        everybody_hears(prompt, END)
        expected = from_begin_to_end(bytes(prompt[0].data))
        assert len(expected) > BEHIND
        for each in late[1:]:
            assert from_begin_to_end(each.read_to(encoded(END))) == expected


def test_two_hundred_unread_answers_come_in_order_between_whole_frames(shared: Server) -> None:
    with stalled(shared, 2) as late, listeners(shared, 2) as prompt:
        prompt[0].say(BEGIN)
        fall_behind(shared, prompt[0], len(late))
        for each in late:
            # The answer says at which byte of the payload it is wrong: no two are equal.
            wrong = [raw_frame(b'{"message":"' + b"a" * number + b'\xff"}') for number in range(200)]
            each.send_raw(b"".join(wrong[:150]) + wrong[150][:7])
        settle_reads(shared)
        reload(shared)
        for each in late:
            each.send_raw(wrong[150][7:] + b"".join(wrong[151:]) + frame("the last word"))
        everybody_hears(prompt, "the last word")
        reload(shared)
        prompt[0].say(END)
        everybody_hears(prompt, END)
        expected = list(payloads(from_begin_to_end(bytes(prompt[0].data))))
        for each in late:
            data = each.read_to(encoded(END))
            while len(errors := [one for one in payloads_so_far(data) if one.startswith(b'{"error"')]) < 200:
                more = each.sock.recv(1 << 16)
                assert more, "the stream ended before all answers"
                data += more
            places = [int(re.findall(rb"byte (\d+)", one)[0]) for one in errors]
            assert places == [len(b'{"message":"') + number for number in range(200)]
            messages = [one for one in payloads_so_far(data) if not one.startswith(b'{"error"')]
            assert messages[messages.index(expected[0]) :][: len(expected)] == expected


def payloads_so_far(data: bytes) -> list[bytes]:
    """The whole frames at the beginning of a stream."""
    found, position = [], 0
    while position + 2 <= len(data):
        end = position + 2 + int.from_bytes(data[position : position + 2], "big")
        if end > len(data):
            break
        found.append(data[position + 2 : end])
        position = end
    return found


def settle_reads(server: Server) -> None:
    """Wait until the workers have read what was sent to them: nothing is in their sockets."""

    def nothing_unread() -> bool:
        port = server_address(server)[1]
        with open("/proc/net/tcp") as table:
            rows = [line.split() for line in table.readlines()[1:]]
        ours = [row for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "01"]
        return bool(ours) and all(row[4].endswith(":00000000") for row in ours)

    eventually(nothing_unread, "what was sent to be read")


# The connection itself.


def test_it_is_the_same_connection_under_the_same_address(shared: Server) -> None:
    with descriptors_given_back(shared), listeners(shared, 20) as crowd:
        all_speak(crowd)
        peers = [(each.sock.getsockname(), each.sock.getpeername()) for each in crowd]
        for _ in range(2):
            assert reload(shared)["moved"] == 20
            assert sum(connections(shared)) == 20
            assert abs(connections(shared)[0] - connections(shared)[1]) <= 2
        assert [(each.sock.getsockname(), each.sock.getpeername()) for each in crowd] == peers
        assert [each.ended for each in crowd] == [None] * 20
        assert change(shared, "kick", address=crowd[7].address).result["ended"] == 1
        others = [each for each in crowd if each is not crowd[7]]
        eventually(lambda: crowd[7].ended == "", "the kicked one's orderly end")
        everybody_hears(others, f" Disconnect : {crowd[7].address} ")
        everybody_heard_of_leaving(others, 1)


def test_a_client_that_has_ended_its_stream_gets_what_it_said_over_a_reload(shared: Server) -> None:
    said = [f"{number} 나가면서 " + "x" * 50_000 for number in range(100)]
    with listeners(shared, 1) as (other,), Client(server_address(shared)) as leaver:
        for text in said:
            leaver.say(text)
        leaver.sock.shutdown(socket.SHUT_WR)
        everybody_hears([other], said[-1])
        eventually(lambda: sum(each["late"] for each in facts(shared)["workers"]), "the leaver to be late")
        assert reload(shared)["moved"] == 2
        assert leaver.hear_until(said[-1]) == said
        assert leaver.receive() is None
        everybody_hears([other], f" Disconnect : {leaver.address} ")


def test_a_reload_says_what_it_did_and_status_remembers_it(server: Server) -> None:
    assert facts(server)["last_reload"] is None
    assert (facts(server)["generation"], generations(server)) == (1, [1, 1])
    with listeners(server, 10):
        said = reload(server)
    assert (said["generation"], said["workers"], said["renewed"], said["moved"]) == (2, 2, [1, 2], 10)
    assert (said["changed"], said["kept"]) == ([], {})
    assert 0 < said["pauses"]["p50"] <= said["pauses"]["p99"] <= said["pauses"]["max"] < said["seconds"]
    found = facts(server)
    assert (found["generation"], generations(server), found["moves"]) == (2, [2, 2], 10)
    assert (found["change"], found["last_reload"]["exit"], found["last_reload"]["moved"]) == (None, OK, 10)
    assert [each["restarts"] for each in found["workers"]] == [0, 0]
    assert server.command("reload").stdout.startswith('mpchat "default" reloaded: generation 3, 2 workers')


# Time.


def test_silence_and_half_a_frame_are_counted_from_before_the_move(folder: Path) -> None:
    flags = ("--idle-timeout", "7s", "--frame-timeout", "7s")
    with running(folder, *flags) as server, listeners(server, 2) as (idle, awake):
        idle.say("the last that it says")
        everybody_hears([awake], "the last that it says")
        begun = time.monotonic()
        with Client(server_address(server)) as half:
            half.send_raw(frame("never ended")[:5])
            for number in range(6):
                last_for(0.5)
                awake.say(f"{number}")
            reload(server)
            assert time.monotonic() - begun < 7.0, "this machine is too slow today"
            while idle.ended is None and time.monotonic() - begun < 15.0:
                awake.say("awake")
                last_for(0.1)
            # Counted from the move, it would be 10 seconds at least.
            assert 7.0 <= time.monotonic() - begun < 10.0
            assert awake.ended is None
            eventually(lambda: ended(server, "idle") + ended(server, "half a frame") == 2, "both to be ended")


def ended(server: Server, reason: str) -> int:
    return sum(each["ended"].get(reason, 0) for each in facts(server)["workers"])


# Settings.


def refusal(client: Client) -> str:
    answer = client.receive()
    assert answer is not None
    return str(answer["error"]["code"])


def test_the_limit_of_a_payload_changes_for_those_who_are_there(folder: Path) -> None:
    with configured(folder, payload_limit=1000) as server, clients(server, 3) as (one, other, third):
        half = frame("h" * 900)
        third.send_raw(half[:850])
        one.say("x" * 700)
        assert one.hear() == other.hear() == third.hear() == "x" * 700
        write_settings(server, port=0, workers=2, payload_limit=500)
        assert reload(server)["changed"] == ["payload_limit"]
        one.say("x" * 700)
        assert refusal(one) == "too_long"
        third.send_raw(half[850:] + frame("in step"))
        assert refusal(third) == "too_long"
        assert one.hear() == other.hear() == third.hear() == "in step"
        write_settings(server, port=0, workers=2, payload_limit=2000)
        assert reload(server)["changed"] == ["payload_limit"]
        one.say("x" * 1900)
        assert one.hear() == other.hear() == third.hear() == "x" * 1900


def test_notices_log_level_connections_and_workers_change(folder: Path) -> None:
    with configured(folder) as server, listeners(server, 4) as crowd:
        with connected(server_address(server), 1) as leaver:
            introduce(leaver)
        everybody_heard_of_leaving(crowd, 1)
        assert "DEBUG" not in server.log
        write_settings(server, port=0, workers=3, notices=False, log_level="debug", max_connections=5)
        said = reload(server)
        assert set(said["changed"]) == {"notices", "log_level", "max_connections", "workers"}
        assert (said["workers"], generations(server)) == (3, [2, 2, 2])
        with connected(server_address(server), 1) as leaver:
            settle(leaver)
            with Client(server_address(server)) as sixth:
                assert refusal(sixth) == "full"
        eventually(lambda: facts(server)["connections"] == 4, "the leaver to be gone")
        eventually(lambda: "= ended, closed:" in server.log, "a line for those who look closely")
        crowd[0].say(END)
        everybody_hears(crowd, END)
        everybody_heard_of_leaving(crowd, 1)
        write_settings(server, port=0, workers=1)
        assert (reload(server)["workers"], generations(server)) == (1, [3])
        assert connections(server) == [4]


def test_the_lag_limit_is_lowered_under_a_client_that_is_further_behind(folder: Path) -> None:
    with configured(folder) as server, stalled(server, 2) as late, listeners(server, 2) as prompt:
        introduce(late)
        fall_behind(server, prompt[0], len(late))
        write_settings(server, port=0, workers=2, lag_limit="16M")
        assert reload(server)["changed"] == ["lag_limit"]
        assert facts(server)["connections"] == 4
        write_settings(server, port=0, workers=2, lag_limit="256k")
        reload(server)
        eventually(lambda: facts(server)["connections"] == 2, "those too far behind to be cut off")
        everybody_heard_of_leaving(prompt, 2)
        assert [each.ended for each in prompt] == [None, None]


def test_an_address_comes_and_another_goes_and_who_came_by_it_stays(folder: Path) -> None:
    with configured(folder, host="127.0.0.1") as server, listeners(server, 2) as crowd:
        host, port = server_address(server)
        write_settings(server, port=0, workers=2, host=["127.0.0.1", "127.0.0.2"])
        assert reload(server)["changed"] == ["host"]
        assert facts(server)["addresses"] == [f"127.0.0.1:{port}", f"127.0.0.2:{port}"]
        with Client(("127.0.0.2", port)) as there:
            there.say("from there")
            everybody_hears(crowd, "from there")
            write_settings(server, port=0, workers=2, host=["127.0.0.2"])
            assert reload(server)["changed"] == ["host"]
            with pytest.raises(ConnectionRefusedError):
                Client((host, port))
            crowd[0].say(END)
            everybody_hears(crowd, END)
            assert there.hear_until(END)
        assert server.command("status").returncode == 0


@pytest.fixture(scope="module")
def lasting_configured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a settings file, for all tests after which it has the settings that it began with."""
    folder = tmp_path_factory.mktemp("configured")
    with configured(folder) as started:
        yield started
    assert_nothing_left(folder)


@pytest.fixture
def unchanged(lasting_configured: Server) -> Server:
    """The file's server with a settings file, which says again what it said at the start."""
    write_settings(lasting_configured, port=0, workers=2)
    lasting_configured.wait_for_connections(0)
    last_for(3 * NOTICE_GATHER)
    return lasting_configured


def test_what_cannot_change_is_kept_and_said(unchanged: Server) -> None:
    server, folder = unchanged, unchanged.folder
    with listeners(server, 2) as crowd:
        write_settings(server, port=0, workers=2, name="other", runtime_dir=str(folder / "elsewhere"))
        said = reload(server)
        assert set(said["kept"]) == {"name", "runtime_dir"}
        assert (said["changed"], said["renewed"]) == ([], [1, 2])
        assert facts(server)["name"] == "default"
        assert not (folder / "elsewhere").exists()
        crowd[0].say(END)
        everybody_hears(crowd, END)


def test_a_wrong_file_changes_nothing(unchanged: Server) -> None:
    server, folder = unchanged, unchanged.folder
    with listeners(server, 2) as crowd:
        before = facts(server)
        for text, names in (
            ("port = 0\nworkers = 'many'\n", "workers"),
            ("port = \n", "line 1"),
            ("port = 0\ncolour = 'blue'\n", "colour"),
        ):
            (folder / "mpchat.toml").write_text(text)
            with descriptors_given_back(server):
                done = server.command("reload")
                assert (done.returncode, done.stdout, done.stderr.count("\n")) == (NOT_STARTED, "", 1)
                assert str(folder / "mpchat.toml") in done.stderr
                assert names in done.stderr
        found = facts(server)
        assert [each["pid"] for each in found["workers"]] == [each["pid"] for each in before["workers"]]
        assert [found[each] for each in ("generation", "moves")] == [
            before[each] for each in ("generation", "moves")
        ]
        assert found["last_reload"]["exit"] == NOT_STARTED
        crowd[0].say(END)
        everybody_hears(crowd, END)


def test_a_taken_port_and_an_address_of_another_machine_change_nothing(unchanged: Server) -> None:
    server = unchanged
    with listeners(server, 2) as crowd, Client(server_address(server)) as more:
        before = worker_pids(server)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with descriptors_given_back(server):
                for wrong in ({"port": port}, {"port": 0, "host": ["127.0.0.1", "192.0.2.1"]}):
                    write_settings(server, workers=2, payload_limit=100, **wrong)
                    answer = change(server, "reload")
                    assert (answer.exit, answer.result["renewed"]) == (NOT_STARTED, [])
                    assert (str(port) if "host" not in wrong else "192.0.2.1") in answer.text
        assert worker_pids(server) == before
        more.say("x" * 200)
        everybody_hears(crowd, "x" * 200)


def test_a_reload_of_many_connections_with_everything_unread_leaves_no_descriptor(shared: Server) -> None:
    with descriptors_given_back(shared):
        with connected(server_address(shared), 400) as crowd:
            settle(crowd)
            said = reload(shared)
            assert said["moved"] == 400
            scale(shared, 1)
            scale(shared, 2)
            crowd[0].say(END)
            for each in crowd:
                assert each.hear_until(END) == [END]
        eventually(lambda: facts(shared)["connections"] == 0, "all to be gone")
    assert len(workers_of(shared)) == 2


# When there is little room.


@pytest.mark.parametrize("free", [3, 45])
def test_a_reload_while_the_supervisor_is_short_of_descriptors_loses_nobody(
    shared: Server, free: int
) -> None:
    """With 3 no worker can be started; with 45 one can, but a batch of connections does not fit."""
    logged = shared.log.count("\n")
    with connected(server_address(shared), 160) as crowd:
        settle(crowd)
        supervisor = psutil.Process(facts(shared)["pid"])
        last_for(0.2)
        before = supervisor.rlimit(psutil.RLIMIT_NOFILE)
        used = max(int(each) for each in os.listdir(f"/proc/{supervisor.pid}/fd"))
        supervisor.rlimit(psutil.RLIMIT_NOFILE, (used + 1 + free, before[1]))
        background = InBackground(shared, "reload")
        last_for(1.5)
        supervisor.rlimit(psutil.RLIMIT_NOFILE, before)
        answer = background.answer()
        assert (answer.exit, answer.result["lost"]) in ((OK, 0), (NOT_STARTED, 0)), answer
        assert reload(shared)["moved"] == 160
        assert shared.log.count("\n") - logged < 60
        crowd[0].say(END)
        assert [each.hear_until(END) for each in crowd] == [[END]] * 160


def test_a_connection_with_megabytes_of_unread_answers_moves_too(shared: Server) -> None:
    """Tens of thousands of wrong frames, each answered; what of it is in the outbox goes along."""
    with stalled(shared, 5) as crowd, listeners(shared, 1) as prompt:
        for each in crowd:
            each.sock.settimeout(0.1)
            with suppress(TimeoutError):
                for _ in range(40):
                    each.sock.sendall((b"\0\0" + raw_frame(b"{}")) * 1_000)
            each.sock.settimeout(20.0)
        assert scale(shared, 3)["moved"] >= 2
        begun = cpu(shared)
        last_for(0.5)
        assert cpu(shared) - begun < 0.25, "somebody is busy with nothing"
        assert scale(shared, 2)["workers"] == 2
        assert reload(shared)["moved"] == 6
        prompt[0].say(END)
        everybody_hears(prompt, END)
        for each in crowd:
            data = each.read_to(encoded(END))
            frames = payloads_so_far(data)
            assert {one[:9] for one in frames} == {b'{"error":', b'{"message'}
            # What was sent before it moved may still be answered: then the last answer has begun.
            rest = data[sum(map(len, frames)) + 2 * len(frames) :]
            assert any(raw_frame(one).startswith(rest) for one in set(frames))


def cpu(server: Server) -> float:
    """Seconds that the workers have used."""
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in worker_pids(server))
