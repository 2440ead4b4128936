"""The stress test must be able to fail: the verdict against every fault it is there for, then for real.

The pure part is tested with streams of its own making, the script against a relay that breaks the rules on
request (``faulty_relay.py``), and last against the real server.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.harness import Server
from support.injected import inject

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from stress_findings import Findings, Numbers  # noqa: E402  (scripts is no package: its folder must be on the path first)
from stress_frames import HERALD, Talk, split_frames  # noqa: E402
from stress_latency import Latency  # noqa: E402
from stress_order import OneOrder, Reader, State  # noqa: E402
from stress_report import Verdict  # noqa: E402

TALK = Talk("r")
NOTICE = b'{"message":" Disconnect : 127.0.0.1:5 "}'
MARK = 1
# Two processes of five connections, three that measure, and two hundred messages: a second or so. Three is
# what it takes to tell who of a process is wrong.
SMALL_RUN = ("--processes", "2", "--connections", "5", "--probes", "3", "--messages", "20", "--rate", "200")
Plan = dict[int, list[bytes]]


def conversation(messages: int, senders: int = 3) -> list[bytes]:
    """Return the one order of a run: messages of several senders, notices, and the mark at the end."""
    frames = []
    numbers = [0] * senders
    for index in range(messages):
        sender = (index * 7 + index // 5) % senders
        frames.append(TALK.frame(sender + 1, numbers[sender], 80, sent=1000 + index))
        numbers[sender] += 1
        if index % 11 == 10:
            frames.append(len(NOTICE).to_bytes(2, "big") + NOTICE)
    return [*frames, TALK.frame(HERALD, MARK, sent=10**6)]


def judged(streams: list[list[bytes]], chooser: random.Random) -> tuple[Findings, bytes]:
    """Feed the streams in random pieces, interleaved, and return what was found and what became the order."""
    findings = Findings()
    order = OneOrder(TALK, findings)
    readers = [order.add(Reader(f"c{index}", joined=0)) for index in range(len(streams))]
    rest = [b"".join(stream) for stream in streams]
    settled = b""
    while any(rest):
        index = chooser.choice([index for index, data in enumerate(rest) if data])
        size = chooser.choice([1, 3, 90, 200, 1000])
        order.feed(readers[index], rest[index][:size])
        rest[index] = rest[index][size:]
        if chooser.random() < 0.1:
            order.settle()
            settled += b"".join(data for _, data in order.take())
    order.finish(MARK)
    settled += b"".join(data for _, data in order.take())
    return findings, settled


def only(findings: Findings, **expected: int) -> None:
    assert findings.counts() == {**dict.fromkeys(findings.counts(), 0), **expected}, findings.examples


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(1, 5))
def test_honest_streams_in_any_pieces_are_clean(seed: int, messages: int, clients: int) -> None:
    frames = conversation(messages)
    findings, settled = judged([frames] * clients, random.Random(seed))
    only(findings)
    assert settled == b"".join(frames)


@settings(deadline=None, max_examples=150)
@example(536870913, 0, 0, "swap")
@given(
    st.integers(0, 2**32), st.integers(0, 58), st.integers(0, 4), st.sampled_from(["drop", "double", "swap"])
)
def test_one_fault_at_one_client_is_named_and_nothing_else(
    seed: int, at: int, victim: int, fault: str
) -> None:
    chooser = random.Random(seed)
    frames = conversation(60)
    tests = [index for index, frame in enumerate(frames) if TALK.read(frame)]
    place = tests[at]
    broken = list(frames)
    if fault == "drop":
        del broken[place]
    elif fault == "double":
        broken.insert(place, broken[place])
    else:
        broken[place], broken[place + 1] = broken[place + 1], broken[place]
    streams = [frames] * 5
    streams[victim] = broken
    findings, settled = judged(streams, chooser)
    assert settled == b"".join(frames), "the many decide what the order is"
    assert all(f"c{victim} " in example for example in findings.examples), findings.examples
    if fault == "drop":
        only(findings, lost=1)
    elif fault == "double":
        only(findings, doubled=1)
    elif findings.doubled:  # seen as one message more at one place and one less at another: just as right
        only(findings, doubled=1, lost=1)
        assert len({name for example in findings.examples for name in re.findall(r"\d+:\d+", example)}) == 1
    else:
        assert findings.differing == 1, findings.examples
        same_sender = (TALK.read(frames[place]) or (0,))[0] == (TALK.read(frames[place + 1]) or (0,))[0]
        only(findings, differing=1, reordered=int(same_sender))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(0, 5000), st.integers(0, 50))
def test_one_who_dies_anywhere_and_one_who_joins_anywhere_are_clean(seed: int, cut: int, join: int) -> None:
    frames = conversation(60)
    joined = next(test.sent for test in map(TALK.read, frames[join:]) if test) - 1
    findings = Findings()
    order = OneOrder(TALK, findings)
    stays = order.add(Reader("stays", joined=0))
    dies = order.add(Reader("dies", joined=0))
    joins = order.add(Reader("joins", joined=joined))
    chooser = random.Random(seed)
    work = [(stays, b"".join(frames)), (dies, b"".join(frames)[:cut]), (joins, b"".join(frames[join:]))]
    chooser.shuffle(work)
    for reader, data in work:
        for at in range(0, len(data), 97):
            order.feed(reader, data[at : at + 97])
        if reader is dies:
            order.close(reader)
    order.finish(MARK)
    only(findings)


def test_the_first_message_lost_at_a_client_that_had_joined_is_named() -> None:
    frames = conversation(30)
    only(judged([frames[1:], frames, frames], random.Random(1))[0], lost=1)


def test_a_client_that_gets_nothing_lost_everything() -> None:
    frames = conversation(9)
    only(judged([[], frames, frames], random.Random(1))[0], lost=len(frames))


def test_the_end_missing_at_one_client_is_named() -> None:
    frames = conversation(9)
    only(judged([frames[:-3], frames, frames], random.Random(1))[0], lost=3)


def test_bytes_that_nobody_else_got_are_named() -> None:
    frames = conversation(30)
    alien = TALK.frame(77, 0, 80, sent=5)
    only(judged([[*frames[:9], alien, *frames[9:]], frames, frames], random.Random(1))[0], strange=1)


def test_an_altered_byte_is_named() -> None:
    frames = conversation(30)
    altered = bytearray(b"".join(frames))
    altered[500] ^= 1
    findings = judged([[bytes(altered)], frames, frames], random.Random(1))[0]
    assert (findings.lost, findings.strange) == (1, 1), findings.examples


@pytest.mark.parametrize("victim", range(4))
@pytest.mark.parametrize("seed", range(5))
def test_a_length_that_is_wrong_harms_nobody_elses_verdict(victim: int, seed: int) -> None:
    frames = conversation(60)
    streams = [list(frames) for _ in range(4)]
    place = next(index for index in range(30, 60) if TALK.read(frames[index]))
    streams[victim][place] = frames[place][:1] + bytes([frames[place][1] + 1]) + frames[place][2:]
    findings, settled = judged(streams, random.Random(seed))
    assert settled == b"".join(frames)
    tests = sum(TALK.read(frame) is not None for frame in frames[place:])
    assert tests <= findings.lost <= len(frames) - place, findings.examples
    assert findings.strange
    assert all(f"c{victim} " in example for example in findings.examples), findings.examples


def test_two_halves_with_two_orders_are_named() -> None:
    frames = conversation(600)
    swapped = [frame for pair in zip(frames[1::2], frames[::2], strict=False) for frame in pair]
    findings = judged([frames, frames, [*swapped, frames[-1]], frames], random.Random(1))[0]
    assert findings.differing >= 1, findings.examples


def test_a_reader_that_holds_up_too_much_is_given_up_with_a_finding() -> None:
    findings = Findings()
    order = OneOrder(TALK, findings, window=100_000)
    fast = order.add(Reader("fast", joined=0))
    slow = order.add(Reader("slow", joined=0))
    for frame in conversation(3000):
        order.feed(fast, frame)
        order.settle()
    assert slow.state is State.GONE
    only(findings, unchecked=1)


def test_what_all_have_passed_is_dropped() -> None:
    order = OneOrder(TALK, Findings())
    reader = order.add(Reader("one", joined=0))
    size = 0
    for frame in conversation(5000):
        order.feed(reader, frame)
        order.settle()
        size += sum(len(data) for _, data in order.take())
    assert size > 200_000
    assert order.end - size < 100_000


def test_when_all_have_left_a_new_segment_begins() -> None:
    frames = conversation(60)
    findings = Findings()
    order = OneOrder(TALK, findings)
    first = order.add(Reader("first", joined=0))
    order.feed(first, b"".join(frames[:20]))
    order.close(first)
    second = order.add(Reader("second", joined=10**5))
    order.feed(second, b"".join(frames[30:]))
    order.finish(MARK)
    only(findings)
    assert order.take() == [(0, b"".join(frames[:20])), (1, b"".join(frames[30:]))]


def counted(frames: list[bytes], sent: dict[int, int]) -> Findings:
    findings = Findings()
    numbers = Numbers(TALK, findings)
    numbers.feed(0, b"".join(frames))
    numbers.finish(sent)
    return findings


SENT = {1: 4, 2: 4, 3: 4}


def test_what_happens_to_everybody_alike_is_found_by_the_numbers() -> None:
    frames = [TALK.frame(sender, number) for number in range(4) for sender in (1, 2, 3)]
    only(counted(frames, SENT))
    only(counted(frames[:4] + frames[5:], SENT), lost=1)
    only(counted(frames[:-1], SENT), lost=1)
    only(counted([*frames[:5], frames[4], *frames[5:]], SENT), doubled=1)
    only(counted([*frames[:3], frames[6], *frames[4:6], frames[3], *frames[7:]], SENT), reordered=1)


def test_frames_in_pieces() -> None:
    frames = conversation(5)
    data = b"".join(frames)
    for cut in range(len(data)):
        whole, rest = split_frames(data[:cut])
        assert b"".join(whole) + rest == data[:cut]
        assert whole == frames[: len(whole)]


def test_the_beginning_of_a_frame_is_known_before_its_time() -> None:
    for number, size in ((0, 0), (7, 120), (123_456, 120)):
        head = TALK.head(5, number, size)
        now, later = (TALK.frame(5, number, size, sent) for sent in (1, 10**18))
        assert now.startswith(head)
        assert later.startswith(head)
        assert len(now) == len(later)
        assert TALK.read(now) == (5, number, 1)


def test_what_speaks_against_a_clean_verdict_when_connections_move() -> None:
    def reasons(killing: bool = False, **facts: Any) -> list[str]:
        verdict = Verdict({"kill_workers": killing})
        verdict.faults["changes"] = facts
        verdict.conclude(None)
        return verdict.reasons

    assert reasons(missing=0, failed=0, lost=0, wrong=[]) == []
    assert reasons(missing=2) == ["2 of the wanted reloads and scalings were not done"]
    assert reasons(lost=3, wrong=["reload: exit 5: why"]) == [
        "3 connections lost at reloads and scalings",
        "reload: exit 5: why",
    ]
    assert reasons(killing=True, missing=1, lost=3) == ["1 of the wanted reloads and scalings were not done"]

    verdict = Verdict({"kill_workers": False}, refused=2)
    verdict.faults["stall"] = {"unexplained": 1}
    verdict.conclude(None)
    assert verdict.reasons == ["1 stalled connections ended without cause", "2 connections were refused"]


def test_percentiles_are_within_two_percent() -> None:
    latency = Latency()
    for value in range(1, 1001):
        latency.record(value * 10**6)
    summary = latency.summary()
    assert 0.485 < summary["p50"] < 0.515
    assert 0.97 < summary["p99"] < 1.01
    assert summary["max"] == 1.0


# The script itself, against a relay that keeps its promises and against one that breaks them.


def stress(*flags: str) -> tuple[int, dict[str, Any]]:
    """Run the script; return its exit code and its verdict."""
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "stress.py"), "--json", *flags],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stdout, done.stderr
    assert not done.stderr, done.stderr
    verdict: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, verdict


@contextmanager
def relay(mode: str) -> Iterator[str]:
    """Run a relay and yield its address."""
    command = [sys.executable, str(Path(__file__).parents[1] / "support" / "faulty_relay.py"), mode]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("mode", "found"),
    [
        ("honest", {}),
        ("drop-one", {"lost": 1}),
        ("drop-all", {"lost": 1}),
        ("double-one", {"doubled": 1}),
        ("alter-one", {"lost": 1, "strange": 1}),
        ("swap-one", {"differing": 1}),
    ],
)
def test_the_script_names_exactly_what_the_relay_does(mode: str, found: dict[str, int]) -> None:
    with relay(mode) as address:
        code, verdict = stress("--address", address, *SMALL_RUN)
    examples = verdict["streams"].pop("examples")
    assert verdict["streams"] == {**dict.fromkeys(verdict["streams"], 0), **found}, examples
    assert bool(examples) == bool(found)
    assert verdict["reasons"] == [f"{count} {name}" for name, count in found.items()]
    assert code == (1 if found else 0)
    assert verdict["messages"]["sent"] == 2 * 5 * 20
    assert verdict["messages"]["deliveries"] >= 2 * 5 * 20 * 13 - 13


def test_half_of_the_clients_with_another_order_are_found() -> None:
    with relay("swap-half") as address:
        code, verdict = stress("--address", address, *SMALL_RUN)
    examples = verdict["streams"].pop("examples")
    assert {name for name, count in verdict["streams"].items() if count} <= {"differing", "reordered"}, (
        examples
    )
    assert verdict["streams"]["differing"] > 1, examples
    assert code == 1


def test_a_connection_that_is_ended_without_cause_is_a_fault() -> None:
    with relay("hang-up-one") as address:
        code, verdict = stress("--address", address, *SMALL_RUN)
    assert code == 1
    assert len(verdict["connections"]["dropped"]) == 1
    assert verdict["streams"]["examples"] == []


def test_usage() -> None:
    script = [sys.executable, str(SCRIPTS / "stress.py")]
    for flags in (
        ["--address", "nowhere"],
        ["--address", "127.0.0.1:1", "--kill-workers"],
        ["--address", "127.0.0.1:1", "--reload"],
        ["--seconds", "0"],
    ):
        assert subprocess.run([*script, *flags], capture_output=True, check=False).returncode == 2


# Against the real server.


def ours(folder: Path) -> list[psutil.Process]:
    """Return the living processes that were started with ``folder`` as their place for temporary files."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("TMPDIR") == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Let the script keep its files here, and see that nothing of it is left, neither files nor processes."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    yield tmp_path
    assert list(tmp_path.iterdir()) == []
    assert not psutil.wait_procs(ours(tmp_path), timeout=10)[1]


def test_the_real_server_keeps_its_promises_under_every_fault(temporary: Path) -> None:
    code, verdict = stress(
        *("--seconds", "6", "--processes", "2", "--connections", "15", "--probes", "5", "--workers", "2"),
        *("--kill-workers", "--stall", "--stalled", "5", "--garbage", "--garbage-inputs", "200"),
        *("--disconnect-storm", "--storm-clients", "40", "--start-storm", "--starts", "4"),
    )
    assert verdict["reasons"] == [], verdict["streams"]["examples"]
    assert code == 0
    assert verdict["clean"]
    faults = verdict["faults"]
    assert faults["kill_workers"]["kills"] >= 1
    assert faults["garbage"]["inputs"] == 200
    assert faults["disconnect_storm"]["left"] >= 40
    assert faults["start_storm"]["rounds"] == 1
    assert verdict["connections"]["died"] > 0
    assert verdict["messages"]["deliveries"] > 35 * 40


MOVING_RUN = (
    *("--processes", "2", "--connections", "20", "--rate", "100", "--probes", "5", "--workers", "2"),
    *("--reload", "--scale", "--scale-most", "4", "--stall", "--stalled", "5"),
)


def test_connections_move_again_and_again_and_nothing_is_lost(temporary: Path) -> None:
    code, verdict = stress("--seconds", "6", "--reloads", "3", "--scalings", "3", *MOVING_RUN)
    assert verdict["reasons"] == [], verdict["streams"]["examples"]
    assert code == 0
    changes = verdict["faults"]["changes"]
    assert (changes["reloads"], changes["scalings"], changes["missing"]) == (3, 3, 0)
    assert changes["moved"] >= 3 * 70
    assert 0 < changes["pauses"]["p50"] <= changes["pauses"]["p99"] <= changes["pauses"]["max"]
    assert verdict["messages"]["halves"] > 50


# What happens once, to one connection that moves. A frame has as many bytes as the size says, and two
# more. A byte of a frame that has begun is found twice: the server takes offence at the frame, and its sender
# misses it, for which the script waits half a minute.
AT_A_MOVE = """
    def install(worker, slot):
        pack = worker.Worker._pack

        def broken(self, connection):
            baggage = pack(self, connection)
            replace, state = worker.msgspec.structs.replace, baggage.session
            if {when} and once():
                {what}
            return baggage

        worker.Worker._pack = broken

    def once():
        try:
            os.close(os.open(os.path.join(FOLDER, "done"), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True
"""
UNREAD = """
    def unread(sock):
        import array, fcntl, termios
        count = array.array("i", [0])
        fcntl.ioctl(sock, termios.TIOCOUTQ, count)
        return count[0]
"""
BREAKS = {
    "a message is lost": ("True", "baggage = replace(baggage, number=baggage.number + 1)"),
    "a message is doubled": (
        "baggage.number > 100",
        "baggage = replace(baggage, number=baggage.number - 1)",
    ),
    "a byte of half a frame is lost": (
        "len(state.partial) > 5",
        "baggage = replace(baggage, session=replace(state, partial=state.partial[:-1]))",
    ),
}


@pytest.mark.parametrize("fault", BREAKS)
def test_what_goes_wrong_at_a_move_is_found(
    temporary: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    when, what = BREAKS[fault]
    broken(tmp_path_factory, monkeypatch, AT_A_MOVE.format(when=when, what=what))
    code, verdict = stress("--seconds", "3", *MOVING_RUN)
    assert code == 1
    assert verdict["faults"]["changes"]["wrong"] == []
    assert verdict["streams"]["examples"], verdict["reasons"]


def test_a_connection_that_does_not_arrive_is_found(
    temporary: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = AT_A_MOVE.format(when="state.partial", what="connection.sock.shutdown(2)")
    broken(tmp_path_factory, monkeypatch, fault)
    code, verdict = stress("--seconds", "3", *MOVING_RUN)
    assert code == 1
    assert len(verdict["connections"]["dropped"]) == 1
    assert "1 connections ended without cause" in verdict["reasons"]


def test_a_client_that_does_not_read_and_does_not_arrive_is_found(
    temporary: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = AT_A_MOVE.format(when="unread(connection.sock) > 15_000", what="connection.sock.shutdown(2)")
    fault += UNREAD
    broken(tmp_path_factory, monkeypatch, fault)
    code, verdict = stress("--seconds", "8", *MOVING_RUN)
    assert code == 1
    assert verdict["reasons"] == ["1 stalled connections ended without cause"], verdict["streams"]["examples"]


def test_a_reload_that_fails_is_found(
    temporary: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = """
        def install(worker, slot):
            open(os.path.join(FOLDER, f"worker {os.getpid()}"), "w").close()
            if sum(each.startswith("worker") for each in os.listdir(FOLDER)) > 2:
                os._exit(3)
    """
    broken(tmp_path_factory, monkeypatch, fault)
    flags = [each for each in MOVING_RUN if each != "--scale"]
    code, verdict = stress("--seconds", "2", "--reloads", "1", *flags)
    assert code == 1
    assert any("ended before it could serve" in each for each in verdict["reasons"]), verdict["reasons"]
    assert verdict["streams"]["examples"] == []


def broken(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """Have a fault in the workers of the server that the script starts from now on."""
    carrier = Server(tmp_path_factory.mktemp("fault"))
    inject(carrier, fault)
    monkeypatch.setenv("PYTHONPATH", carrier.environment["PYTHONPATH"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_behind(temporary: Path, number: signal.Signals) -> None:
    flags = ["--seconds", "100", "--connections", "5", "--workers", "1"]
    command = [sys.executable, str(SCRIPTS / "stress.py"), *flags]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=True) as script:
        try:
            deadline = time.monotonic() + 60
            while not has_client(script.pid):
                assert time.monotonic() < deadline, "waited 60 s for the first client process"
            os.killpg(script.pid, number)
            assert script.wait(60) == 1
        finally:
            script.kill()


def has_client(pid: int) -> bool:
    """Say whether the script ``pid`` has started a client process."""
    with suppress(psutil.Error):
        return any("spawn_main" in " ".join(child.cmdline()) for child in psutil.Process(pid).children())
    return False
