"""The bench's WebSocket side: how its clients speak, what npm installs, and how figures are judged and shown.

That each server really relays is shown in test_bench.py.
"""

import json
import stat
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from websockets.frames import Frame, Opcode

from mpchat.protocol.websocket_decoder import TEXT as TEXT_MESSAGE
from mpchat.protocol.websocket_decoder import Decoder
from scripts.bench import node, table
from scripts.bench.compare import chosen_peers, print_header
from scripts.bench.goals import judge
from scripts.bench.load_process import plans
from scripts.bench.peers import OVER_WEBSOCKET, Server, all_peers
from scripts.bench.report import as_json, row_table
from scripts.bench.row import Figures, Options, Results, Row
from scripts.bench.rows import Sizes, all_rows
from scripts.bench.websocket import (
    BINARY,
    TEXT,
    Unwrapper,
    after_handshake,
    client_frame,
    payload_of_one,
    server_head,
)
from scripts.bench.wire import WIRES

ROWS = {row.name: row for row in all_rows(Sizes())}
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
# Short payloads and some whose length takes two and eight bytes.
PAYLOADS = st.binary(max_size=200) | st.sampled_from([125, 126, 127, 65535, 65536]).map(bytes)


def framed(first: bytes, payload: bytes) -> bytes:
    """Return a server's frame."""
    return server_head(first, len(payload)) + payload


def results(row: str, **costs: float) -> Results:
    """Return one run of each server, whose name has ``_`` for a hyphen, with its µs per delivery."""
    named = {name.replace("_", "-").replace("socket-io", "socket.io"): cost for name, cost in costs.items()}
    return Results(
        {(row, name): [Figures(row, name, cpu_us_per_delivery=cost)] for name, cost in named.items()}
    )


# ---- how clients speak


@given(PAYLOADS)
def test_a_servers_frame_is_as_the_library_writes_it(payload: bytes) -> None:
    assert framed(BINARY, payload) == Frame(Opcode.BINARY, payload).serialize(mask=False)
    assert payload_of_one(framed(BINARY, payload)) == payload


# A few characters, of one to four bytes: all of them would be read from a table of Unicode.
@given(st.text("aé한\N{GRINNING FACE}", max_size=200))
def test_a_clients_frame_is_masked_and_its_payload_as_it_was(text: str) -> None:
    frame = client_frame(TEXT, text.encode())

    assert frame.endswith(text.encode())
    assert frame[1] & 0x80
    assert Decoder(1000).feed(frame) == [(TEXT_MESSAGE, text.encode())]


@given(st.lists(PAYLOADS, max_size=6), st.data())
def test_frames_come_off_wherever_the_stream_is_cut(payloads: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(framed(BINARY, each) for each in payloads)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    unwrapper = Unwrapper()

    pieces = [unwrapper.feed(stream[a:b]) for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]

    assert b"".join(pieces) == b"".join(payloads)
    assert unwrapper.between_frames


@given(st.integers(0, 300))
def test_a_part_of_a_frame_is_none(size: int) -> None:
    frame = framed(TEXT, bytes(size))
    for end in range(len(frame)):
        assert payload_of_one(frame[:end]) is None
    assert payload_of_one(frame + b"\x81") is None


def test_an_answer_to_a_handshake_has_to_be_whole() -> None:
    assert {after_handshake(SWITCHED[:end]) for end in range(len(SWITCHED))} == {None}


def test_what_follows_a_handshake_is_for_the_knock_and_a_refusal_is_told() -> None:
    assert after_handshake(SWITCHED + b"\x81\x00") == b"\x81\x00"
    with pytest.raises(ConnectionRefusedError, match=r"no WebSocket: HTTP/1\.1 404 Not Found"):
        after_handshake(b"HTTP/1.1 404 Not Found\r\n\r\n")


def test_a_socket_io_client_is_served_when_its_namespace_is_open() -> None:
    wire = WIRES["socket.io"]
    opened, connected = framed(TEXT, b'0{"sid":"a","upgrades":[]}'), framed(TEXT, b'40{"sid":"b"}')

    assert wire.served(opened + connected)
    assert not wire.served(opened)
    assert not wire.served(opened + connected + b"\x81")
    assert not any(wire.served((opened + connected)[:end]) for end in range(len(opened + connected)))


def test_a_delivery_is_as_long_as_a_plain_one() -> None:
    for size, more in ((100, 0), (1024, 2)):
        plain, websocket = (WIRES[name].bytes_of(size, 1) for name in ("frames", "frames-websocket"))
        assert websocket == plain + more


@pytest.mark.parametrize("name", ["websocket", "frames-websocket", "socket.io", "nats-websocket"])
def test_a_publication_is_one_message_with_the_text_as_it_is(name: str) -> None:
    before, after = WIRES[name].publication(300)
    ((_, payload),) = Decoder(1000).feed(before + b"x" * 300 + after)

    assert payload.count(b"x" * 300) == 1
    if name != "nats-websocket":  # its servers send another command than its clients
        assert b"".join(WIRES[name].delivery(300)) == framed(TEXT, payload).replace(b"x" * 300, b"")


# ---- what npm installs


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Make programs out of shell scripts; there are no others, and no packages yet."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}")
    monkeypatch.setattr("scripts.bench.node.CACHE", tmp_path / "cache")
    node.modules.cache_clear()

    def program(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(stat.S_IRWXU)

    return program


@pytest.fixture(autouse=True)
def _forget_packages() -> Iterator[None]:
    yield
    node.modules.cache_clear()


def header_of(*names: str) -> tuple[dict[str, str], str]:
    """Return the versions of the servers that are installed, and what is printed."""
    shown = StringIO()
    versions = print_header(Console(width=200, file=shown), chosen_peers(",".join(names)))
    return versions, shown.getvalue()


def test_missing_programs_are_named(programs: Callable[[str, str], None]) -> None:
    versions, text = header_of("ws", "mpchat-ws")

    assert list(versions) == ["mpchat-ws"]
    assert "ws is absent: apt-get install nodejs npm" in text


def test_what_npm_says_is_told(programs: Callable[[str, str], None], tmp_path: Path) -> None:
    programs("node", "echo v20.1.2")
    programs("npm", "echo npm error code ENOTFOUND >&2; exit 1")

    versions, text = header_of("socket.io")

    assert versions == {}
    assert "socket.io is absent: npm cannot install" in text
    assert "npm error code ENOTFOUND" in text
    assert list((tmp_path / "cache").iterdir()) == []


def test_npm_installs_once_and_the_versions_are_named(
    programs: Callable[[str, str], None], tmp_path: Path
) -> None:
    programs("node", "echo v20.1.2")
    programs("npm", f'echo "$@" >> {tmp_path}/calls; /bin/mkdir "$3/node_modules"')

    versions, _ = header_of("ws", "socket.io")
    node.modules.cache_clear()
    again, _ = header_of("ws", "socket.io")

    assert (
        versions == again == {each: f"{node.PACKAGES[each]} on Node 20.1.2" for each in ("ws", "socket.io")}
    )
    (call,) = (tmp_path / "calls").read_text().splitlines()
    assert call.split()[-2:] == [f"{name}@{number}" for name, number in node.PACKAGES.items()]
    assert node.modules().is_dir()
    assert [each.name for each in (tmp_path / "cache").iterdir()] == [node.modules().parent.name]


# ---- servers, goals, tables


def test_websocket_servers_are_run_only_when_they_are_named() -> None:
    reached = {peer.name for peer in all_peers() if peer.websocket}

    assert reached == {*OVER_WEBSOCKET, "ws", "socket.io", "websockets", "nats-ws"}
    assert not reached & {peer.name for peer in chosen_peers("")}
    assert [peer.wire for peer in chosen_peers("mpchat-ws,mpchat-ws-w3,mpchat-w3")] == [
        "frames-websocket",
        "frames-websocket",
        "frames",
    ]


def test_deliveries_alone_are_sent_by_plain_clients() -> None:
    (peer,) = chosen_peers("mpchat-to-ws-w3")

    *clients, senders = plans(peer, ROWS["max-100"], Options(), Server("127.0.0.1", 1, psutil.Process()))

    assert senders.wire == "frames"
    assert {each.wire for each in clients} == {"frames-websocket"}


def held(row: Row, runs: Results, *servers: str) -> dict[str, bool | None]:
    """Return whether each goal holds, by its text after the limit."""
    verdicts = judge(row, servers, runs)
    return {each.goal.removeprefix("at most "): each.holds for each in verdicts}


def test_websocket_clients_are_judged_beside_plain_ones_and_other_servers() -> None:
    row = ROWS["max-100"]
    reached = results(row.name, mpchat=1.0, mpchat_ws=1.15, ws=4.0, socket_io=8.0)
    missed = results(row.name, mpchat=1.0, mpchat_ws=1.16, ws=3.8, socket_io=7.7)

    assert held(row, reached, "mpchat-ws") == {
        "1.15 times the CPU of mpchat": True,
        "0.3 times the CPU of ws": True,
        "0.15 times the CPU of socket.io": True,
    }
    assert set(held(row, missed, "mpchat-ws").values()) == {False}
    assert set(held(row, results(row.name, mpchat_ws=1.0), "mpchat-ws").values()) == {None}


def test_deliveries_alone_are_judged_beside_plain_ones() -> None:
    row = ROWS["max-100"]
    runs = results(row.name, mpchat=1.0, mpchat_to_ws=1.15, ws=1.0, socket_io=1.0)

    assert held(row, runs, "mpchat-to-ws") == {"1.15 times the CPU of mpchat": True}


def test_two_workers_are_judged_beside_two_workers() -> None:
    row = ROWS["steady-100"]
    runs = results(row.name, mpchat=9.0, mpchat_w2=1.0, mpchat_ws_w2=1.2)

    assert held(row, runs, "mpchat-ws-w2") == {"1.15 times the CPU of mpchat-w2": False}


@pytest.mark.parametrize(("size", "holds"), [(1536, True), (1537, False)])
def test_an_idle_websocket_is_judged_by_its_bytes(size: int, holds: bool) -> None:
    runs = Results({("idle", "mpchat-ws"): [Figures("idle", "mpchat-ws", bytes_per_connection=size)]})

    assert held(ROWS["idle"], runs, "mpchat-ws") == {"1536 bytes for a connection": holds}
    assert held(ROWS["connect"], runs, "mpchat-ws") == {}
    assert held(ROWS["max-100-64k"], runs, "mpchat-ws") == {}


def test_the_table_has_the_ratios_to_those_that_were_run() -> None:
    runs = results("max-100", mpchat=1.0, mpchat_ws=1.1, ws=5.5, socket_io=5.0)

    shown = row_table(ROWS["max-100"], ["mpchat", "mpchat-ws", "ws", "socket.io"], runs)

    columns = {str(column.header): [str(cell) for cell in column.cells] for column in shown.columns}
    assert columns["× plain"] == ["–", "1.10 (≤ 1.15)", "–", "–"]
    assert columns["× ws"] == ["0.18", "0.20 (≤ 0.30)", "1.00", "0.91"]
    assert columns["× socket.io"] == ["0.20", "0.22 (≤ 0.15)", "1.10", "1.00"]
    assert not {"× Redis", "× floor"} & set(columns)


def test_the_page_gets_a_table_of_websocket_clients(tmp_path: Path) -> None:
    row = ROWS["max-100"]
    runs = results(row.name, mpchat=1.0, mpchat_ws=1.1, mpchat_to_ws=1.05, ws=5.5)
    path = tmp_path / "figures.json"
    versions = dict.fromkeys(("mpchat", "mpchat-ws", "mpchat-to-ws", "ws"), "1")
    path.write_text(json.dumps(as_json(Options(), versions, [row], runs, [])))

    answer = CliRunner().invoke(table.main, [str(path)])

    assert answer.exit_code == 0
    assert f"| {row.title} | 1.10 | 1.10 | 0.20 | 1.05 |" in " ".join(answer.output.split())


def test_an_unknown_server_is_named_with_those_that_there_are() -> None:
    with pytest.raises(Exception, match="mpchat-ws-wN"):
        chosen_peers("mpchat-wss")
