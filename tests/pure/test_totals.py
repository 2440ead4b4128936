"""Totals of processes that come and go: what they have counted never goes back."""

from itertools import pairwise
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from mpchat.ipc.durations import BOUNDS, CLASSES, Durations
from mpchat.ipc.items import Beat, decode_beat, encode_beat
from mpchat.protocol.messages import counted_error_frame, error_frame, message_frame
from mpchat.supervisor.heartbeat import Heartbeat
from mpchat.supervisor.metrics.totals import Counted, Totals, total
from mpchat.worker.counters import Counters

REASONS = ("closed", "slow consumer", "lost")
NUMBERS = ("messages_in", "messages_out", "bytes_in", "bytes_out", "waits", "log_dropped")

# What a process has done since its last beat: by how much each figure has grown.
GROWTH = st.fixed_dictionaries(
    {
        **{name: st.integers(0, 1000) for name in NUMBERS},
        "ended": st.dictionaries(st.sampled_from(REASONS), st.integers(0, 9)),
        "turns": st.lists(st.integers(0, 9), min_size=CLASSES, max_size=CLASSES),
    }
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("start"), st.integers(1, 3), st.none()),
        st.tuples(st.just("beat"), st.integers(0, 9), GROWTH),
        st.tuples(st.just("end"), st.integers(0, 9), st.none()),
    ),
    max_size=60,
)


def grown(beat: Beat, growth: dict[str, Any]) -> Beat:
    """The next beat of a process that has done so much more."""
    numbers = {name: getattr(beat, name) + growth[name] for name in NUMBERS}
    ended = {name: beat.ended.get(name, 0) + growth["ended"].get(name, 0) for name in REASONS}
    turns = [before + more for before, more in zip(beat.turns or [0] * CLASSES, growth["turns"], strict=True)]
    return msgspec.structs.replace(beat, ended=ended, turns=turns, **numbers)


class Processes:
    """Processes that a test starts and ends, and their totals."""

    def __init__(self) -> None:
        self.totals = Totals()
        self.running: list[tuple[int, Heartbeat]] = []
        self._next_pid = 1

    def start(self, slot: int) -> None:
        heartbeat = Heartbeat(1.0, 0.0)
        self.totals.begin(self._next_pid, f"worker {slot}", heartbeat)
        self.running.append((self._next_pid, heartbeat))
        self._next_pid += 1

    def do(self, what: str, which: int, growth: dict[str, Any] | None) -> None:
        if what == "start":
            self.start(which)
        elif self.running and growth is not None:
            heartbeat = self.running[which % len(self.running)][1]
            heartbeat.on_beat(grown(heartbeat.beat, growth), 1.0)
        elif self.running and what == "end":
            pid, _ = self.running.pop(which % len(self.running))
            self.totals.end(pid)


def falls(before: Counted, after: Counted) -> list[str]:
    """The figures that have gone back."""
    found = [name for name in NUMBERS if getattr(after, name) < getattr(before, name)]
    found += [name for name, count in before.ended.items() if after.ended[name] < count]
    found += [f"turns {index}" for index in range(CLASSES) if after.turns[index] < before.turns[index]]
    return found


@given(STEPS)
def test_totals_never_go_back_and_lose_nothing(steps: list[tuple[str, int, dict[str, Any] | None]]) -> None:
    processes, grew, before = Processes(), 0, Counted()
    by_title: dict[str, Counted] = {}
    for what, which, growth in steps:
        if growth is not None and processes.running:
            grew += growth["messages_in"]
        processes.do(what, which, growth)
        now = processes.totals.by_title()
        assert [title for title, each in by_title.items() if falls(each, now[title])] == []
        everything = total(now.values())
        assert falls(before, everything) == []
        assert everything.messages_in == grew
        before, by_title = everything, now


def test_two_processes_of_a_slot_are_added_up() -> None:
    processes = Processes()
    processes.start(1)
    processes.start(1)
    for _, heartbeat in processes.running:
        heartbeat.on_beat(Beat(messages_in=3, cpu=0.5, ended={"closed": 1}), 1.0)
    (title,) = processes.totals.by_title()
    counted = processes.totals.by_title()[title]
    assert (title, counted.messages_in, counted.cpu, counted.ended) == ("worker 1", 6, 1.0, {"closed": 2})
    assert [(pid, each) for pid, each, _ in processes.totals.running()] == [(1, "worker 1"), (2, "worker 1")]


def test_a_process_that_never_beat_takes_nothing_away() -> None:
    processes = Processes()
    processes.start(1)
    processes.do("end", 0, None)
    assert processes.totals.by_title() == {"worker 1": Counted()}
    assert processes.totals.running() == []


def test_a_beat_of_an_earlier_release_counts_as_far_as_it_goes() -> None:
    earlier = msgspec.msgpack.encode([5, 70, 700, 0.1, 0, {"closed": 2}, 1.5])
    beat = decode_beat(earlier)
    assert (beat.connections, beat.messages_in, beat.turns, beat.errors) == (5, 70, [], {})
    totals = Totals()
    heartbeat = Heartbeat(1.0, 0.0)
    totals.begin(1, "worker 1", heartbeat)
    heartbeat.on_beat(beat, 1.0)
    assert totals.by_title()["worker 1"].messages_in == 70


def test_a_beat_is_read_as_it_was_written() -> None:
    beat = Beat(connections=1, errors={"not_json": 2}, turns=[1] * CLASSES, turn_time=0.5, half_closed=3)
    assert decode_beat(encode_beat(beat)) == beat


@given(st.floats(0, 100))
def test_a_duration_is_counted_in_the_class_that_it_belongs_to(seconds: float) -> None:
    durations = Durations()
    durations.add(seconds)
    (index,) = (place for place, count in enumerate(durations.counts) if count)
    # At a bound the class is decided by a rounding.
    assert index == 0 or seconds >= BOUNDS[index - 1] * (1 - 1e-6)
    assert index == CLASSES - 1 or seconds <= BOUNDS[index] * (1 + 1e-6)
    assert durations.total == seconds


def test_each_class_is_four_times_as_wide_as_the_one_before() -> None:
    assert [round(later / sooner, 6) for sooner, later in pairwise(BOUNDS)] == [4.0] * 8
    assert BOUNDS[-1] > 4  # a worker that hangs for longer is killed


def test_errors_are_counted_by_code() -> None:
    counters = Counters()
    once, often = error_frame("not_json", "no"), error_frame("muted", "you are")
    counters.note_errors(once + once + counted_error_frame(often, 12))
    counters.note_errors(error_frame("bad_text", 'auf Deutsch: 안녕, "}'))
    assert counters.errors == {"not_json": 2, "muted": 1, "bad_text": 1}


def test_a_message_that_looks_like_an_error_is_none() -> None:
    counters = Counters()
    counters.note_errors(message_frame('{"error":{"code":"not_json"'))
    counters.note_errors(b"")
    counters.note_errors(b'\0\x13{"error":')
    assert counters.errors == {}
