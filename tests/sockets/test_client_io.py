"""Both clients against a real peer: each scenario is written once, for asyncio, and runs on either.

The blocking client takes part in threads, behind the asyncio client's face.
"""

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

import pytest
from support.keepalive import probed_in
from support.leftovers import nothing_left_behind
from support.peers import Relay
from support.threaded_chat import InThreads, soon
from support.waiting import PATIENCE

from mpchat import connect, connect_blocking
from mpchat.client.aio import Chat
from mpchat.client.conversation import INBOX_LIMIT, State
from mpchat.client.core import Connected, Disconnected, Message
from mpchat.client.sockets import SILENCE
from mpchat.errors import (
    ConfigError,
    ConnectError,
    ConnectionLostError,
    ProtocolError,
    RefusedError,
    TimedOutError,
)
from mpchat.protocol.frames import MAX_PAYLOAD, FrameDecoder, encode_frame
from mpchat.protocol.messages import error_frame, message_frame

FULL = error_frame("full", "no place left")


AnyChat = Chat | InThreads
Connect = Callable[..., AnyChat]
Scenario = Callable[[Connect], Awaitable[None]]


@pytest.fixture(params=[connect, InThreads], ids=["aio", "blocking"])
def run(request: pytest.FixtureRequest) -> Iterator[Callable[[Scenario], None]]:
    """Run a scenario on one of the clients; no descriptor and no thread may be left behind."""
    with nothing_left_behind():
        yield lambda scenario: asyncio.run(asyncio.wait_for(scenario(request.param), 3 * PATIENCE))


@pytest.fixture
def relay() -> Iterator[Relay]:
    with Relay() as relay:
        yield relay


Run = Callable[[Scenario], None]
E = TypeVar("E", Connected, Disconnected)


async def text_of(chat: AnyChat) -> str:
    return (await chat.recv(PATIENCE)).text


async def event_of(chat: AnyChat, kind: type[E]) -> E:
    while not isinstance(event := await chat.next_event(PATIENCE), kind):
        pass
    return event


@pytest.mark.parametrize("port", [-1, 0, 65_536, 70_000])
def test_a_port_that_is_none(port: int) -> None:
    with pytest.raises(ConfigError, match="must be 1 to 65535"):
        connect(port=port)
    with pytest.raises(ConfigError, match="must be 1 to 65535"):
        connect_blocking(port=port)


def test_what_one_says_everybody_hears_in_order(run: Run) -> None:
    async def scenario(connect: Connect) -> None:
        with Relay() as relay:
            async with connect("127.0.0.1", relay.port) as one, connect(port=relay.port) as other:
                await soon(lambda: relay.clients == 2, "both connections")
                said = ["안녕하세요", "\x1b[31m", "", *map(str, range(50))]
                for text in said:
                    await one.send(text)
                assert [await text_of(one) for _ in said] == said
                assert [await text_of(other) for _ in said] == said
                assert one.state is State.CONNECTED

    run(scenario)


def test_nobody_there(run: Run) -> None:
    async def scenario(connect: Connect) -> None:
        with Relay() as gone:
            pass
        with pytest.raises(
            ConnectError, match=rf"no server answers at 127.0.0.1:{gone.port}; .* mpchat start"
        ):
            async with connect(port=gone.port):
                pass

    run(scenario)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/net/tcp is Linux's")
def test_a_server_that_says_nothing_is_probed_long_before_two_hours(run: Run) -> None:
    async def scenario(connect: Connect) -> None:
        with Relay() as relay:
            async with connect(port=relay.port):
                seconds = probed_in(relay.port)
                assert seconds is not None
                assert 0 < seconds <= SILENCE

    run(scenario)


@pytest.mark.parametrize("host", ["é" * 70, "a..b"])
def test_a_name_that_is_none(run: Run, host: str) -> None:
    async def scenario(connect: Connect) -> None:
        with pytest.raises(ConnectError, match="cannot connect to"):
            async with connect(host):
                pass

    run(scenario)


@pytest.mark.parametrize("text", ["x" * MAX_PAYLOAD, "\udcff"])
def test_what_cannot_be_a_message_is_not_sent(run: Run, text: str) -> None:
    async def scenario(connect: Connect) -> None:
        with Relay() as relay:
            async with connect(port=relay.port) as chat:
                with pytest.raises(ProtocolError):
                    await chat.send(text)
                await chat.send("fine")
                assert await text_of(chat) == "fine"
                assert len(relay.received) == 1

    run(scenario)


def test_garbage_is_an_error_and_not_the_end(run: Run) -> None:
    async def scenario(connect: Connect) -> None:
        with Relay() as relay:
            async with connect(port=relay.port) as chat:
                await soon(lambda: relay.clients, "the connection")
                relay.send(encode_frame(b"\xff\x00") + message_frame("fine"))
                with pytest.raises(ProtocolError, match="not an mpchat server"):
                    await chat.recv(PATIENCE)
                assert await text_of(chat) == "fine"

    run(scenario)


def test_an_error_of_the_server_is_raised_and_not_the_end(run: Run) -> None:
    async def scenario(connect: Connect) -> None:
        with Relay(greeting=error_frame("slow_down", "too fast") + message_frame("fine")) as relay:
            async with connect(port=relay.port) as chat:
                with pytest.raises(RefusedError) as refused:
                    await anext(chat)
                assert refused.value.code == "slow_down"
                assert (await anext(chat)).text == "fine"

    run(scenario)


def test_a_full_server_is_heard_before_it_closes(run: Run) -> None:
    async def scenario(connect: Connect) -> None:
        with Relay(greeting=FULL, closes=True) as relay:
            async with connect(port=relay.port, reconnect=False) as chat:
                await soon(lambda: relay.accepted, "the refusal")
                # The second one meets a reset connection, and must not make the refusal unread.
                for text in ("one", "two"):
                    try:
                        await chat.send(text)
                    except ConnectionLostError:
                        break
                with pytest.raises(RefusedError) as refused:
                    await chat.recv(PATIENCE)
                assert refused.value.code == "full"
                with pytest.raises(ConnectionLostError):
                    await chat.recv(PATIENCE)

    run(scenario)


def test_half_a_frame_then_the_end(run: Run) -> None:
    async def scenario(connect: Connect) -> None:
        with Relay() as relay:
            async with connect(port=relay.port) as chat:
                await soon(lambda: relay.clients, "the connection")
                relay.send(message_frame("half")[:-3])
                relay.drop()
                assert "inside a frame" in (await event_of(chat, Disconnected)).reason
                assert (await event_of(chat, Connected)).again
                await chat.send("whole")
                assert await text_of(chat) == "whole"

    run(scenario)


def test_a_server_that_goes_away_and_comes_back(run: Run) -> None:
    async def scenario(connect: Connect) -> None:
        with Relay() as first:
            chat_at = connect(port=first.port, send_timeout=PATIENCE)
            async with chat_at as chat:
                await chat.send("before")
                assert await text_of(chat) == "before"
                await asyncio.to_thread(first.stop)
                await event_of(chat, Disconnected)
                assert chat.state is State.DISCONNECTED
                sending = asyncio.create_task(chat.send("meanwhile"))
                with await asyncio.to_thread(Relay, first.port) as second:
                    await sending
                    assert await text_of(chat) == "meanwhile"
                    assert second.received == [b'{"message":"meanwhile"}']

    run(scenario)


def test_sending_without_a_server_ends_in_an_error(run: Run) -> None:
    async def scenario(connect: Connect) -> None:
        with Relay() as relay:
            async with connect(port=relay.port, send_timeout=0.3) as chat:
                await asyncio.to_thread(relay.stop)
                await event_of(chat, Disconnected)
                with pytest.raises(ConnectionLostError, match=r"not sent within 0.3 s"):
                    await chat.send("hello")

    run(scenario)


def test_without_reconnect_a_loss_is_the_end(run: Run) -> None:
    async def scenario(connect: Connect) -> None:
        with Relay() as relay:
            async with connect(port=relay.port, reconnect=False) as chat:
                await soon(lambda: relay.clients, "the connection")
                relay.say("last words")
                relay.drop()
                assert (await anext(chat)).text == "last words"
                with pytest.raises(ConnectionLostError, match="is lost"):
                    await anext(chat)
                assert chat.state is State.LOST
                with pytest.raises(ConnectionLostError, match="is lost"):
                    await chat.send("hello")

    run(scenario)


def test_nothing_to_receive_ends_at_the_deadline(run: Run) -> None:
    async def scenario(connect: Connect) -> None:
        with Relay() as relay:
            async with connect(port=relay.port) as chat:
                for timeout in (0.0, 0.05):
                    with pytest.raises(TimedOutError, match="nothing came"):
                        await chat.recv(timeout)
                await chat.send("hello")
                assert await text_of(chat) == "hello"

    run(scenario)


def test_closing_ends_an_iteration_and_a_wait(run: Run) -> None:
    async def scenario(connect: Connect) -> None:
        with Relay() as relay:
            async with connect(port=relay.port) as chat:
                iterating = asyncio.create_task(_collect(chat))
                await chat.send("hello")
                await soon(lambda: relay.received, "the message")
                await chat.close()
                assert await iterating in ([], ["hello"])
                for call in (chat.recv(), chat.send("late")):
                    with pytest.raises(ConnectionLostError, match="closed"):
                        await call
                assert chat.state is State.CLOSED

    run(scenario)


async def _collect(chat: AnyChat) -> list[str]:
    return [message.text async for message in chat]


def test_closing_while_the_server_is_gone(run: Run) -> None:
    async def scenario(connect: Connect) -> None:
        with Relay() as relay:
            async with connect(port=relay.port) as chat:
                iterating = asyncio.create_task(_collect(chat))
                await asyncio.to_thread(relay.stop)
                await soon(lambda: chat.state is State.DISCONNECTED, "the loss")
        assert await iterating == []

    run(scenario)


def test_an_application_that_does_not_read_costs_bounded_memory(run: Run) -> None:
    async def scenario(connect: Connect) -> None:
        count = 6_000
        flood = b"".join(message_frame(f"{number:05000}") for number in range(count))
        with Relay(greeting=flood) as relay:
            async with connect(port=relay.port) as chat:
                inbox = chat._conversation.inbox
                await soon(lambda: inbox.full, "a full inbox")
                # The kernel's buffers and the limit together are far from the 30 MB of the flood.
                assert inbox.size < 2 * INBOX_LIMIT
                assert relay.accepted == 0
                for number in range(0, count, 10):
                    assert await text_of(chat) == f"{number:05000}"
                    await _skip(chat, 9)

    run(scenario)


async def _skip(chat: AnyChat, count: int) -> None:
    for _ in range(count):
        await chat.recv(PATIENCE)


def test_a_server_that_never_reads_meets_the_deadline_and_no_half_message(run: Run) -> None:
    async def scenario(connect: Connect) -> None:
        text = "x" * 50_000
        with socket.create_server(("127.0.0.1", 0)) as listener:
            async with connect(port=listener.getsockname()[1], send_timeout=0.3, reconnect=False) as chat:
                sent = 0
                with suppress(TimedOutError):
                    # Far more than any socket's buffers take.
                    while sent < 2000:
                        await chat.send(text)
                        sent += 1
                assert 0 < sent < 2000
                closing = asyncio.create_task(chat.close())
                payloads = await asyncio.to_thread(_read_all, listener)
                await closing
        assert payloads == [message_frame(text)[2:]] * sent

    run(scenario)


def _read_all(listener: socket.socket) -> list[Any]:
    decoder, payloads = FrameDecoder(), list[Any]()
    peer, _ = listener.accept()
    with peer:
        peer.settimeout(PATIENCE)
        try:
            while data := peer.recv(65_536):
                payloads += decoder.feed(data)
        except ConnectionResetError:
            pass
    return payloads


def test_saying_something_and_leaving_at_once(run: Run) -> None:
    async def scenario(connect: Connect) -> None:
        with Relay(greeting=message_frame("unread") * 1000) as relay:
            for number in range(10):
                async with connect(port=relay.port) as chat:
                    await chat.send(f"bye {number}")
            await soon(lambda: len(relay.received) == 10, "ten last words")
            assert relay.received == [message_frame(f"bye {number}")[2:] for number in range(10)]

    run(scenario)


def test_many_senders_at_once_do_not_mix(run: Run) -> None:
    async def scenario(connect: Connect) -> None:
        with Relay() as relay:
            async with connect(port=relay.port) as chat:
                texts = [str(digit) * 20_000 for digit in range(8)]
                await asyncio.gather(*map(chat.send, texts))
                assert sorted([await text_of(chat) for _ in texts]) == texts

    run(scenario)


def test_a_cancelled_close_leaves_no_task_behind() -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            chat = await connect("127.0.0.1", listener.getsockname()[1])
            with listener.accept()[0]:  # who does not close when the client does
                (task,) = asyncio.all_tasks() - {asyncio.current_task()}
                closing = asyncio.create_task(chat.close())
                await asyncio.sleep(0)
                closing.cancel()
                await asyncio.wait({closing})
                _, pending = await asyncio.wait({task}, timeout=PATIENCE)
                assert not pending

    asyncio.run(scenario())


def test_a_cancelled_wait_loses_no_message() -> None:
    async def scenario() -> None:
        with Relay() as relay:
            async with connect(port=relay.port) as chat:
                await soon(lambda: relay.clients, "the connection")
                seen = []
                for number in range(200):
                    waiting = asyncio.create_task(chat.recv())
                    await asyncio.sleep(0)
                    relay.say(str(number))
                    # Cancelled before, while or after the message arrives, as it happens.
                    for _ in range(number % 5):
                        await asyncio.sleep(0)
                    waiting.cancel()
                    for outcome in await asyncio.gather(waiting, return_exceptions=True):
                        if isinstance(outcome, Message):
                            seen.append(outcome.text)
                while len(seen) < 200:
                    seen.append(await text_of(chat))
                assert seen == [str(number) for number in range(200)]

    asyncio.run(scenario())


def test_await_opens_without_a_block(relay: Relay) -> None:
    async def scenario() -> None:
        chat = await connect(port=relay.port)
        await chat.send("hello")
        assert await text_of(chat) == "hello"
        await chat.close()
        await chat.close()
        assert [event async for event in chat.events()] == []

    asyncio.run(scenario())


def test_the_readme_loops_without_an_event_loop(relay: Relay) -> None:
    with connect_blocking(port=relay.port) as chat:
        chat.send("hello")
        for message in chat:
            assert str(message) == "hello"
            chat.close()
        assert list(chat.events()) == []
