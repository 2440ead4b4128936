"""A program of its own that writes history, for tests that kill it or take its disk away.

``archive_writer.py write FILE``: save without end; print the epoch, then again and again how many messages
each room was given and how many of all are known to be in the file.

``archive_writer.py full FILE``: write on a disk that is full, and then is not: print what the status says.
"""

import resource
import sys
import time
from itertools import count
from pathlib import Path

from mpchat.hub import archive
from mpchat.hub.archive import Archive
from mpchat.hub.history import Run
from mpchat.hub.past import Past
from mpchat.protocol.messages import message_frame
from support.waiting import eventually

ROOMS = ("로비", "game-7")
# Messages that the program may be ahead of the file, so that its queue never overflows.
AHEAD = 500
# Turns between two lines, and messages that a room is given at most until the next line comes.
TURNS = 20
MOST_UNSAID = 3 * TURNS


def text_of(room: str, number: int) -> str:
    """Return what message ``number`` of a room says in all these tests."""
    return f"{room} 안녕하세요 {number}"


def run(room: str, seq: int, count: int = 1, *, at: float | None = None, sender: str = "철수") -> Run:
    """Return a run of messages that each tell their number."""
    frames = b"".join(message_frame(text_of(room, number)) for number in range(seq, seq + count))
    at = time.time() if at is None else at
    return Run(room, seq, count, at, sender, frames, time.monotonic() + at - time.time())


def write(path: Path) -> None:
    store = Archive(path, messages=10**9, age=0)
    loaded = store.open()
    print(loaded.epoch, flush=True)
    given = {room: loaded.last.get(room, loaded.floor) for room in ROOMS}
    began = sum(given.values())
    for turn in count():
        for room in ROOMS:
            size = 1 + turn % 3
            store.save(run(room, given[room] + 1, size))
            given[room] += size
        if turn % TURNS == 0:
            print(*given.values(), began + store.status().saved, flush=True)
            ahead = sum(given.values()) - began - AHEAD
            eventually(lambda least=ahead: store.status().saved >= least, "the file to follow")  # type: ignore[misc]


def full(path: Path) -> None:
    archive.FIRST_RETRY = archive.LAST_RETRY = 0.05
    with_history = path.exists()
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if with_history:  # no write at all succeeds, from the start on
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    store = Archive(path, messages=10**9, age=0)
    loaded: Past = store.open()
    number = loaded.last.get("로비", 0)
    print(loaded.epoch, number, sum(each.count for each in loaded.runs))
    if not with_history:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    while store.status().state == "ok" or number < 10_000:
        number += 1
        store.save(run("로비", number))
        if number % 100 == 0:
            eventually(lambda: not store.status().waiting or store.status().state != "ok", "a batch")
    print(store.status().state)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    eventually(lambda: store.status().state == "ok" and not store.status().waiting, "all to be written")
    print(number, store.status().dropped, store.close(10.0))


if __name__ == "__main__":
    {"write": write, "full": full}[sys.argv[1]](Path(sys.argv[2]))
