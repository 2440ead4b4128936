"""WebSocket clients at a worker: what all of them get is encoded once and sent from shared pages."""

import os
from collections.abc import Callable, Iterator

import pytest
from support.harness import raw_frame
from support.one_worker import ROOM, Bench
from support.websocket_peer import Browser, Event, text

from mpchat.ipc.items import Down
from mpchat.protocol.websocket_decoder import TEXT
from mpchat.protocol.websocket_framing import WebSocketFraming
from mpchat.worker import flush
from mpchat.worker.flush import SHARED_BY, SHARED_SIZE
from mpchat.worker.shared_pages import Pages

# One turn's messages of a room: some 40 KB.
SAID = [b"%d " % number + b"x" * 1_000 for number in range(40)]
FRAMES = b"".join(map(raw_frame, SAID))


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(listen_grace=60.0)
    yield made
    made.close()


def in_the_plain_stream(bench: Bench) -> list[Browser]:
    return [Browser(bench, identity) for identity in range(1, SHARED_BY + 1)]


def in_a_room(bench: Bench) -> list[Browser]:
    browsers = in_the_plain_stream(bench)
    for identity, each in enumerate(browsers, 1):
        each.send(text(b'{"join":{"name":"%d"}}' % identity))
        bench.order(Down.ENTER, ((identity, ROOM, 0, True), b""))
        bench.order(Down.ANSWERED, identity)
    bench.turn()
    return browsers


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="Linux has pages that sockets share")
@pytest.mark.parametrize(
    ("come", "order"),
    [
        (in_the_plain_stream, (Down.BATCH, (len(SAID), FRAMES))),
        (in_a_room, (Down.ROOMS, ([(ROOM, len(SAID), len(FRAMES))], FRAMES))),
    ],
)
def test_what_a_room_says_in_a_turn_is_encoded_once_for_all_and_shared(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    come: Callable[[Bench], list[Browser]],
    order: tuple[Down, object],
) -> None:
    browsers = come(bench)
    encoded: list[bytes] = []
    shared: list[bytes] = []
    encode = WebSocketFraming.encode

    def note_encoded(framing: WebSocketFraming, frames: bytes) -> bytes:
        encoded.append(frames)
        return encode(framing, frames)

    def note_shared(blob: bytes) -> Pages:
        shared.append(blob)
        return Pages(blob)

    monkeypatch.setattr(WebSocketFraming, "encode", note_encoded)
    monkeypatch.setattr(flush, "Pages", note_shared)
    bench.order(*order)
    bench.turn()
    expected: list[Event] = [(TEXT, each) for each in SAID]
    assert [each.take(len(SAID)) == expected for each in browsers] == [True] * SHARED_BY
    assert encoded == [FRAMES]
    assert len(FRAMES) > SHARED_SIZE
    assert [len(each) for each in shared] == [len(FRAMES) + 2 * len(SAID)]
