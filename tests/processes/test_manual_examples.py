"""The manual's examples, as they stand there, against a real server; and what its mistakes lead to."""

import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.harness import Client, Server, leftovers, running
from support.manual import blocks, page
from support.programs import require
from support.waiting import PATIENCE, eventually

LONGEST_PAYLOAD = 60_000
# As long as a text can be, with the space that some JSON libraries write.
LONG = "긴 글 " + "x" * (LONGEST_PAYLOAD - len('{"message": "긴 글 "}'.encode()))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for all examples. It soon gives up on half a frame, and no notice comes between."""
    folder = tmp_path_factory.mktemp("shared")
    with running(folder, "--frame-timeout", "1s", "--notices", "off", workers=1) as server:
        yield server
    eventually(lambda: not leftovers(folder), "nothing of the shared server to be left")


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def compiled(source: str, folder: Path) -> list[str]:
    require("mcs", "mono")
    (folder / "client.cs").write_text(source)
    run(["mcs", f"-out:{folder / 'client.exe'}", str(folder / "client.cs")])
    return ["mono", str(folder / "client.exe")]


def in_python(source: str, folder: Path) -> list[str]:
    (folder / "client.py").write_text(source)
    return [sys.executable, "-W", "error", str(folder / "client.py")]


def in_javascript(source: str, folder: Path) -> list[str]:
    require("node")
    (folder / "client.js").write_text(source)
    return ["node", str(folder / "client.js")]


CLIENTS = [("csharp", compiled), ("python", in_python), ("javascript", in_javascript)]


@pytest.mark.parametrize(("language", "prepare"), CLIENTS, ids=[language for language, _ in CLIENTS])
def test_a_client_of_the_page_says_and_hears_every_message(
    shared: Server, tmp_path: Path, language: str, prepare: Callable[[str, Path], list[str]]
) -> None:
    source = blocks(page("clients"), language)[0]
    command = prepare(source, tmp_path)
    host, port = shared.address
    for text in ("hello. 안녕하세요", LONG):
        heard = run([*command, host, str(port), text]).strip()
        assert heard in (text, f'{{"message":"{text}"}}')


@pytest.mark.parametrize("number", [0, 1], ids=["asyncio", "blocking"])
def test_an_example_of_the_library(shared: Server, tmp_path: Path, number: int) -> None:
    source = blocks(page("library"), "python")[number]
    host, port = shared.address
    assert run([*in_python(source, tmp_path), host, str(port)]).startswith("hello")


def test_the_client_of_the_lecture_works_unchanged(shared: Server, tmp_path: Path) -> None:
    command = compiled(blocks(page("lecture"), "csharp")[0], tmp_path)
    host, port = shared.address
    heard = run([*command, host, str(port), "hello. 안녕하세요"])
    assert heard.strip() == '{"message":"hello. 안녕하세요"}'


def test_the_length_read_as_an_int_of_four_bytes_is_zero_or_throws(tmp_path: Path) -> None:
    source = """
    using System; using System.Net;
    class Program {
        static void Main(string[] args) {
            byte[] header = { 0, 19 };
            var swapped = IPAddress.NetworkToHostOrder((ushort) BitConverter.ToInt16(header, 0));
            Console.WriteLine((short) swapped + " " + swapped);
        }
    }
    """
    assert run(compiled(source, tmp_path)).split() == ["0", str(19 << 16)]


HELLO = b'{"message":"hello"}'
KOREAN = '{"message":"안녕하세요"}'


def framed(length: int, payload: bytes, order: str = ">H") -> bytes:
    return struct.pack(order, length) + payload


# The mistake, the bytes that it sends, and what comes back: the error's text or code.
MISTAKES = [
    ("little-endian", framed(len(HELLO), HELLO, "<H"), "the length looks little-endian"),
    ("many, little-endian", framed(len(HELLO), HELLO, "<H") * 300, "trailing characters"),
    ("characters counted", framed(len(KOREAN), KOREAN.encode()), "Input data was truncated"),
    ("the rest of counted characters", '녕"}'.encode()[1:], "count bytes, not characters"),
    ("cp949", framed(len(KOREAN.encode("cp949")), KOREAN.encode("cp949")), "not UTF-8"),
    ("padding counted", framed(len(HELLO) + 5, HELLO + bytes(5)), "trailing characters"),
    ("padding not counted", framed(len(HELLO), HELLO + bytes(4)), "the frame is empty"),
    ("four bytes of length", framed(len(HELLO), HELLO, ">I"), "the frame is empty"),
    ("a byte order mark", framed(len(HELLO) + 3, b"\xef\xbb\xbf" + HELLO), "invalid character (byte 0)"),
    ("UTF-16", framed(2 * len(HELLO), HELLO.decode().encode("utf-16-le")), "object keys must be strings"),
    ("joined strings", framed(22, b'{"message":"say "hi""}'), "not JSON"),
    ("a capital letter", framed(len(HELLO), HELLO.replace(b"m", b"M", 1)), "not_a_message"),
    ("no length", HELLO, "this looks like JSON without a length"),
    ("a line of text", "안녕하세요\n".encode(), "too_long"),
    ("a line of English", b"hello\n", "this looks like text without a length"),
    ("four bytes, little-endian", framed(len(HELLO), HELLO, "<I"), "four little-endian bytes"),
    ("TLS", bytes.fromhex("1603010200010001fc0303"), "this looks like TLS"),
    ("a long message, little-endian", framed(235, HELLO, "<H"), "if the length is little-endian, it is 235"),
]


@pytest.mark.parametrize(
    ("sent", "symptom"), [each[1:] for each in MISTAKES], ids=[each[0] for each in MISTAKES]
)
def test_a_mistake_of_the_page_has_the_symptom_that_it_says(
    shared: Server, sent: bytes, symptom: str
) -> None:
    with Client(shared.address) as client:
        client.send_raw(sent)
        heard = client.receive()
        while heard is not None and "error" not in heard:
            heard = client.receive()
        assert heard is not None
        assert symptom in f"{heard['error']}"


def test_the_status_object_is_described(shared: Server) -> None:
    facts = shared.status()
    described = set(re.findall(r"`(\w+)`", page("operating").split("## Status for programs")[1]))
    assert {*facts, *facts["limits"], *facts["workers"][0]} <= described
