"""A client that sends a fixed buffer: zeros follow its message, and the server reads them as empty frames."""

from collections.abc import Callable
from typing import Any

import pytest
from support.changing import reload
from support.harness import Client, Server, frame, raw_frame

pytestmark = pytest.mark.one_python

# Bytes of the lecture's buffer.
PACKET = 1024
OBJECT = raw_frame(b"{}")


def padded(text: str, size: int = PACKET) -> bytes:
    assert len(frame(text)) % 2 == 0, "an odd number of zeros would shift the next length by a byte"
    return frame(text).ljust(size, b"\0")


def empties(text: str, size: int = PACKET) -> int:
    """Return how many empty frames follow a text."""
    return (size - len(frame(text))) // 2


def answers_until(client: Client, done: Callable[[list[str], int], bool]) -> tuple[list[str], list[Any]]:
    """Return messages and errors up to when ``done`` holds for the messages and the number of errors."""
    messages: list[str] = []
    errors: list[Any] = []
    while not done(messages, sum(times(errors))):
        received = client.receive()
        assert received is not None, "the connection ended"
        if "error" in received:
            errors.append(received["error"])
        else:
            messages.append(received["message"])
    return messages, errors


def answers_to(client: Client, last: str) -> tuple[list[str], list[Any]]:
    return answers_until(client, lambda messages, _: last in messages)


def times(errors: list[Any]) -> list[int]:
    return [error.get("times", 1) for error in errors]


def test_a_padded_packet_is_delivered_and_answered_with_two_errors(shared: Server) -> None:
    with Client(shared.address) as client:
        client.send_raw(padded("안녕!"))
        client.say("그리고")
        messages, errors = answers_to(client, "그리고")
    assert messages == ["안녕!", "그리고"]
    assert times(errors) == [1, empties("안녕!") - 1]
    assert {(error["code"], error["text"]) for error in errors} == {("not_json", "the frame is empty")}
    assert sum(len(str(error)) for error in errors) < 400


def test_a_packet_in_two_parts_has_its_errors_told_after_each_part(shared: Server) -> None:
    packet = padded("hello")
    first = empties("hello", 512)
    with Client(shared.address) as client:
        client.send_raw(packet[:512])
        _, errors = answers_until(client, lambda _, count: count >= first)
        assert times(errors) == [1, first - 1]
        client.send_raw(packet[512:])
        client.say("last")
        _, errors = answers_to(client, "last")
        assert times(errors) == [1, empties("hello") - first - 1]


def test_different_errors_are_told_in_their_order(shared: Server) -> None:
    with Client(shared.address) as client:
        client.send_raw(b"\0\0" * 20 + OBJECT * 3 + b"\0\0" + OBJECT + frame("between") + OBJECT * 2)
        client.say("last")
        messages, errors = answers_to(client, "last")
    assert messages == ["between", "last"]
    told = [(error["code"], error.get("times", 1)) for error in errors]
    assert told == [
        ("not_json", 1),
        ("not_json", 19),
        ("not_a_message", 1),
        ("not_a_message", 2),
        ("not_json", 1),
        ("not_a_message", 1),
        ("not_a_message", 1),
        ("not_a_message", 1),
    ]


def test_a_reload_in_the_middle_of_a_run_loses_no_error(shared: Server) -> None:
    size = 3000
    with Client(shared.address) as client:
        client.send_raw(padded("moved", size) + frame("after"))
        _, before = answers_until(client, lambda _, count: count > 0)
        assert reload(shared)["moved"] >= 1
        _, errors = answers_to(client, "after")
    assert times(before) == [1]
    assert sum(times(errors)) == empties("moved", size) - 1
    assert len(errors) <= 8, "a worker that it leaves tells a number, and the next one begins anew"
