"""The stress test of plain clients must be able to fail: its checker against every fault.

The pure part is tested with streams of the tests' own making, and the program against a relay that breaks the
rules on request (``faulty_relay.py``). ``test_stress_plain_server.py`` has it against the real server.
"""

import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.stress import only, stress

from scripts.common.frames import framed, split_frames
from scripts.common.latency import Latency
from scripts.common.server import Snapshot
from scripts.stress.changes import reasons_against
from scripts.stress.command import main
from scripts.stress.findings import Findings
from scripts.stress.plain.clients import PlainConnection, PlainPlan, Probes
from scripts.stress.plain.conflicts import Reader, State
from scripts.stress.plain.messages import MARK_SENDER, TestMessages
from scripts.stress.plain.numbers import Numbers
from scripts.stress.plain.order import OneOrder
from scripts.stress.report import Verdict

pytestmark = pytest.mark.timeout(320)  # more than the longest run and its end

TESTS = TestMessages("r")
NOTICE = b'{"message":" Disconnect : 127.0.0.1:5 "}'
MARK = 1
# Two processes of five connections, three that measure, and two hundred messages: a second or so. Three is
# what it takes to tell who of a process is wrong.
SMALL_RUN = (
    "--websockets",
    "0",
    "--processes",
    "2",
    "--connections",
    "5",
    "--probes",
    "3",
    "--messages",
    "20",
    "--rate",
    "200",
)


@pytest.mark.parametrize("quick", [0, 10], ids=["none comes in time", "some come in time"])
def test_what_a_fault_delays_past_its_end_counts_with_the_fault(quick: int) -> None:
    near, far = Pipe()
    plan = PlainPlan(name="p", number=1, address=("127.0.0.1", 1), run="r", connections=1)
    probes = Probes(plan, near)
    connection = PlainConnection("p/1", probes.order.add(Reader("p/1")), 1)
    connection.joined, connection.reader.joined = True, 0

    def come(numbers: range, milliseconds: float) -> None:
        for number in numbers:
            sent = time.monotonic_ns() - int(milliseconds * 1e6)
            probes.received(connection, TESTS.frame(7, number, 60, sent))

    with near, far:
        come(range(1), 0)
        probes.command("phase", "calm")
        time.sleep(0.01)
        come(range(1, 50), 1)
        probes.command("phase", "faults")
        time.sleep(0.2)
        come(range(50, 50 + quick), 1)
        probes.command("phase", "")
        come(range(50 + quick, 160), 150)
    connection.sock.close()
    probes.selector.close()
    assert probes.latency["faults"].count == 110
    assert probes.latency["faults"].percentile(0.5) > 0.14


def conversation(messages: int, senders: int = 3) -> list[bytes]:
    """Return the one order of a run: messages of several senders, notices, and the mark at the end."""
    frames = []
    numbers = [0] * senders
    for index in range(messages):
        sender = (index * 7 + index // 5) % senders
        frames.append(TESTS.frame(sender + 1, numbers[sender], 80, sent=1000 + index))
        numbers[sender] += 1
        if index % 11 == 10:
            frames.append(framed(NOTICE))
    return [*frames, TESTS.frame(MARK_SENDER, MARK, sent=10**6)]


def judged(streams: list[list[bytes]], chooser: random.Random) -> tuple[Findings, bytes]:
    """Feed the streams in random pieces, interleaved, and return what was found and what became the order."""
    findings = Findings()
    order = OneOrder(TESTS, findings)
    readers = [order.add(Reader(f"c{index}", joined=0)) for index in range(len(streams))]
    rest = [b"".join(stream) for stream in streams]
    settled: list[bytes] = []

    def settle() -> None:
        for _, frames in order.take():
            settled.extend(frames)

    while any(rest):
        index = chooser.choice([index for index, data in enumerate(rest) if data])
        size = chooser.choice([1, 3, 90, 200, 1000])
        order.feed(readers[index], readers[index].split(rest[index][:size]))
        rest[index] = rest[index][size:]
        if chooser.random() < 0.1:
            order.settle()
            settle()
    order.finish(MARK)
    settle()
    return findings, b"".join(settled)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(1, 5))
def test_honest_streams_in_any_pieces_are_clean(seed: int, messages: int, clients: int) -> None:
    frames = conversation(messages)
    findings, settled = judged([frames] * clients, random.Random(seed))
    only(findings)
    assert settled == b"".join(frames)


@settings(deadline=None, max_examples=150)
@example(536870913, 0, 0, "swap")
@example(219166, 0, 0, "double")  # the slowest ends within the frame after a conflict
@given(
    st.integers(0, 2**32), st.integers(0, 58), st.integers(0, 4), st.sampled_from(["drop", "double", "swap"])
)
def test_one_fault_at_one_client_is_named_and_nothing_else(
    seed: int, at: int, victim: int, fault: str
) -> None:
    chooser = random.Random(seed)
    frames = conversation(60)
    tests = [index for index, frame in enumerate(frames) if TESTS.read(frame)]
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
    elif findings.counts[
        "doubled"
    ]:  # seen as one message more at one place and one less at another: just as right
        only(findings, doubled=1, lost=1)
        assert len({name for example in findings.examples for name in re.findall(r"\d+:\d+", example)}) == 1
    else:
        assert findings.counts["differing"] == 1, findings.examples
        same_sender = (TESTS.read(frames[place]) or (0,))[0] == (TESTS.read(frames[place + 1]) or (0,))[0]
        only(findings, differing=1, reordered=int(same_sender))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(0, 5000), st.integers(0, 50))
def test_one_who_dies_anywhere_and_one_who_joins_anywhere_are_clean(seed: int, cut: int, join: int) -> None:
    frames = conversation(60)
    joined = next(test.sent for test in map(TESTS.read, frames[join:]) if test) - 1
    findings = Findings()
    order = OneOrder(TESTS, findings)
    stays = order.add(Reader("stays", joined=0))
    dies = order.add(Reader("dies", joined=0))
    joins = order.add(Reader("joins", joined=joined))
    chooser = random.Random(seed)
    work = [(stays, b"".join(frames)), (dies, b"".join(frames)[:cut]), (joins, b"".join(frames[join:]))]
    chooser.shuffle(work)
    for reader, data in work:
        for at in range(0, len(data), 97):
            order.feed(reader, reader.split(data[at : at + 97]))
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
    alien = TESTS.frame(77, 0, 80, sent=5)
    only(judged([[*frames[:9], alien, *frames[9:]], frames, frames], random.Random(1))[0], strange=1)


def test_an_altered_byte_is_named() -> None:
    frames = conversation(30)
    altered = bytearray(b"".join(frames))
    altered[500] ^= 1
    findings = judged([[bytes(altered)], frames, frames], random.Random(1))[0]
    only(findings, lost=1, strange=1)


@pytest.mark.parametrize("victim", range(4))
@pytest.mark.parametrize("seed", range(5))
def test_a_length_that_is_wrong_harms_nobody_elses_verdict(victim: int, seed: int) -> None:
    frames = conversation(60)
    streams = [list(frames) for _ in range(4)]
    place = next(index for index in range(30, 60) if TESTS.read(frames[index]))
    streams[victim][place] = frames[place][:1] + bytes([frames[place][1] + 1]) + frames[place][2:]
    findings, settled = judged(streams, random.Random(seed))
    assert settled == b"".join(frames)
    tests = sum(TESTS.read(frame) is not None for frame in frames[place:])
    assert tests <= findings.counts["lost"] <= len(frames) - place, findings.examples
    assert findings.counts["strange"]
    assert all(f"c{victim} " in example for example in findings.examples), findings.examples


def test_two_halves_with_two_orders_are_named() -> None:
    frames = conversation(600)
    swapped = [frame for pair in zip(frames[1::2], frames[::2], strict=False) for frame in pair]
    findings = judged([frames, frames, [*swapped, frames[-1]], frames], random.Random(1))[0]
    assert findings.counts["differing"] >= 1, findings.examples


def test_a_reader_that_holds_up_too_much_is_given_up_with_a_finding() -> None:
    findings = Findings()
    order = OneOrder(TESTS, findings, window=100_000)
    fast = order.add(Reader("fast", joined=0))
    slow = order.add(Reader("slow", joined=0))
    for frame in conversation(3000):
        order.feed(fast, [frame])
        order.settle()
    assert slow.state is State.GONE
    only(findings, unchecked=1)


def test_what_all_have_passed_is_dropped() -> None:
    order = OneOrder(TESTS, Findings())
    reader = order.add(Reader("one", joined=0))
    size = 0
    for frame in conversation(5000):
        order.feed(reader, [frame])
        order.settle()
        size += sum(len(frames) for _, frames in order.take())
    assert size > 4500
    assert order.end - size < 1000
    with pytest.raises(IndexError):
        order.bytes_before(0)


def test_when_all_have_left_a_new_segment_begins() -> None:
    frames = conversation(60)
    findings = Findings()
    order = OneOrder(TESTS, findings)
    first = order.add(Reader("first", joined=0))
    order.feed(first, frames[:20])
    order.close(first)
    second = order.add(Reader("second", joined=10**5))
    order.feed(second, frames[30:])
    order.finish(MARK)
    only(findings)
    assert order.take() == [(0, frames[:20]), (1, frames[30:])]


def counted(frames: list[bytes], sent: dict[int, int]) -> Findings:
    findings = Findings()
    numbers = Numbers(TESTS, findings)
    numbers.feed(0, frames)
    numbers.finish(sent)
    return findings


SENT = {1: 4, 2: 4, 3: 4}


def test_what_happens_to_everybody_alike_is_found_by_the_numbers() -> None:
    frames = [TESTS.frame(sender, number) for number in range(4) for sender in (1, 2, 3)]
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
        head = TESTS.head(5, number, size)
        now, later = (TESTS.frame(5, number, size, sent) for sent in (1, 10**18))
        assert now.startswith(head)
        assert later.startswith(head)
        assert len(now) == len(later)
        assert TESTS.read(now) == (5, number, 1)


def test_what_speaks_against_a_clean_verdict_when_connections_move() -> None:
    def reasons(killing: bool = False, **facts: Any) -> list[str]:
        return reasons_against({"missing": 0, "failed": 0, "lost": 0, "wrong": []} | facts, killing)

    assert reasons() == []
    assert reasons(missing=2) == ["2 of the wanted reloads and scalings were not done"]
    assert reasons(lost=3, wrong=["reload: exit 5: why"]) == [
        "3 connections lost at reloads and scalings",
        "reload: exit 5: why",
    ]
    assert reasons(killing=True, missing=1, lost=3) == ["1 of the wanted reloads and scalings were not done"]

    verdict = Verdict("plain", ("lost",), {}, dropped=["why"])
    verdict.snapshots["last"] = Snapshot(1, 0, {}, refused=2)
    verdict.findings.note("lost", "something")
    verdict.conclude()
    assert verdict.reasons == [
        "1 lost",
        "1 connections ended without cause",
        "2 connections were refused",
    ]


def test_percentiles_are_within_two_percent() -> None:
    latency = Latency()
    for value in range(1, 1001):
        latency.record(value * 10**6)
    summary = latency.summary()
    assert 0.485 < summary["p50"] < 0.515
    assert 0.97 < summary["p99"] < 1.01
    assert summary["max"] == 1.0


# The program itself, against a relay that keeps its promises and against one that breaks them.


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
        code, verdict = stress("plain", "--address", address, *SMALL_RUN)
    examples = verdict["examples"]
    assert verdict["findings"] == {**dict.fromkeys(verdict["findings"], 0), **found}, examples
    assert bool(examples) == bool(found)
    assert verdict["reasons"] == [f"{count} {name}" for name, count in found.items()]
    assert code == (1 if found else 0)
    assert verdict["counts"]["sent"] == 2 * 5 * 20
    assert verdict["counts"]["deliveries"] >= 2 * 5 * 20 * 13 - 13


def test_half_of_the_clients_with_another_order_are_found() -> None:
    with relay("swap-half") as address:
        code, verdict = stress("plain", "--address", address, *SMALL_RUN)
    examples = verdict["examples"]
    assert {name for name, count in verdict["findings"].items() if count} <= {"differing", "reordered"}, (
        examples
    )
    assert verdict["findings"]["differing"] > 1, examples
    assert code == 1


def test_a_connection_that_is_ended_without_cause_is_a_fault() -> None:
    with relay("hang-up-one") as address:
        code, verdict = stress("plain", "--address", address, *SMALL_RUN)
    assert code == 1
    assert len(verdict["connections"]["dropped"]) == 1
    assert not any(verdict["findings"].values())


def test_usage() -> None:
    for flags in (
        ["--address", "nowhere"],
        ["--address", "127.0.0.1:1", "--kill-workers"],
        ["--tls", "0.5", "--kill-workers"],
        ["--address", "127.0.0.1:1", "--reload"],
        ["--seconds", "0"],
    ):
        assert CliRunner().invoke(main, ["plain", *flags]).exit_code == 2
