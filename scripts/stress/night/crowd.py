"""The crowd: members that chat all night over TCP, TLS and WebSocket, and newcomers that come and go.

It runs in one process of its own, on the asyncio client of :mod:`mpchat.client`: so the reconnecting and
resuming that is checked is what applications use. Browsers' part is played by the package websockets.
"""

import asyncio
import contextlib
import json
import random
import socket
import ssl
from collections.abc import Callable
from multiprocessing.connection import Connection as Pipe
from typing import Any, NamedTuple

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import WebSocketException

from mpchat.client.aio import Chat, connect
from mpchat.client.core import Disconnected, Lost, Message, Rejected
from mpchat.errors import MpchatError
from scripts.common.address import Address
from scripts.common.frames import framed
from scripts.stress.night.ledger import Ledger

# Members of one room.
ROOM_SIZE = 10
# Seconds between two newcomers; each says something, hears it and goes.
NEWCOMER_EVERY = 0.05
# Seconds that a newcomer waits for its own words: a restart takes a few.
PATIENCE = 60.0
# Seconds between two attempts of a browser whose connection has ended.
RETRY_AFTER = 0.2
# Seconds without a message after which all is quiet.
QUIET = 1.5
# The third of the members that are browsers, and the third that use TLS.
KINDS = ("tcp", "tls", "websocket")


class Orders(NamedTuple):
    """What the crowd is told at its start."""

    address: Address
    # PEM of the authority that has signed the server's certificates.
    authority: str
    members: int
    # Messages a second, of all members together.
    rate: float
    seed: int


def serve(pipe: "Pipe[Any, Any]", orders: Orders) -> None:
    """Chat until the parent says ``finish``; answer each command with the counts since the one before."""
    asyncio.run(_Crowd(pipe, orders).run())


class _Crowd:
    def __init__(self, pipe: "Pipe[Any, Any]", orders: Orders) -> None:
        self._pipe = pipe
        self._orders = orders
        self._ledger = Ledger()
        self._random = random.Random(orders.seed)
        self._speaking = True
        self._speakers: list[Callable[[str], Any]] = []
        self._tls = ssl.create_default_context(cadata=orders.authority)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        tasks = [asyncio.create_task(self._member(number)) for number in range(self._orders.members)]
        tasks += [asyncio.create_task(self._speak()), asyncio.create_task(self._newcomers())]
        try:
            while (await loop.run_in_executor(None, self._pipe.recv)) != "finish":
                self._answer(tasks)
            self._speaking = False
            await self._quiet()
            self._ledger.finish()
            self._answer(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _answer(self, tasks: list[asyncio.Task[None]]) -> None:
        ledger = self._ledger
        for task in tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                ledger.wrong.append(f"a client ended: {error!r}")
        self._pipe.send((dict(ledger.counts), list(ledger.wrong), len(self._speakers)))
        ledger.counts.clear()
        ledger.wrong.clear()

    async def _quiet(self) -> None:
        """Wait until nothing more is told to anybody."""
        before = -1
        while before != (before := self._ledger.counts["deliveries"]):
            await asyncio.sleep(QUIET)

    # Members.

    async def _member(self, number: int) -> None:
        name, room = f"m{number}", f"방-{number // ROOM_SIZE}"
        kind = KINDS[number % len(KINDS)]
        if kind == "websocket":
            await self._browse(name, room)
            return
        host, port = self._orders.address
        encryption = self._tls if kind == "tls" else False
        async with connect(host, port, name=name, room=room, tls=encryption) as chat:
            self._speakers.append(lambda text: self._say(chat, name, text))
            await self._listen(chat, name, room)

    async def _say(self, chat: Chat, name: str, text: str) -> None:
        text = f"{name} {text}"
        self._ledger.say(name, text)
        await chat.send(text)

    async def _listen(self, chat: Chat, name: str, room: str) -> None:
        last: int | None = None
        async for event in chat.events():
            match event:
                case Message(seq=int(seq), text=text):
                    last = self._ledger.hear(name, room, last, seq, text)
                case Disconnected():
                    self._ledger.lose_connection(name)
                case Lost() | Rejected():
                    self._ledger.wrong.append(f"{name}: {event}")

    async def _browse(self, name: str, room: str) -> None:
        """Be a member over WebSocket, and come back with the token and the last number."""
        host, port = self._orders.address
        browser = _Browser(name, room, self._ledger)
        self._speakers.append(browser.say)
        while True:
            try:
                async with open_websocket(f"ws://{host}:{port}/ws", max_queue=None) as socket_:
                    await browser.listen(socket_)
            except (OSError, WebSocketException) as error:
                browser.socket = None
                if browser.joined:
                    self._ledger.lose_connection(name)
                    browser.joined = False
                if isinstance(error, ConnectionRefusedError):
                    self._ledger.counts["refused"] += 1
            await asyncio.sleep(RETRY_AFTER)

    async def _speak(self) -> None:
        number = 0
        while True:
            await asyncio.sleep(1 / self._orders.rate)
            if not self._speaking or not self._speakers:
                continue
            number += 1
            speak = self._random.choice(self._speakers)
            with contextlib.suppress(MpchatError):
                await asyncio.wait_for(speak(f"{number} 안녕"), PATIENCE)

    # Newcomers.

    async def _newcomers(self) -> None:
        while True:
            await asyncio.sleep(NEWCOMER_EVERY)
            if self._speaking:
                await self._visit()

    async def _visit(self) -> None:
        """Connect, say something, hear it, and go."""
        counts = self._ledger.counts
        try:
            reader, writer = await asyncio.open_connection(*self._orders.address)
        except OSError as error:
            counts["refused"] += 1
            self._ledger.wrong.append(f"a newcomer was refused: {error}")
            return
        mine = json.dumps({"message": f"visit {self._random.getrandbits(60)}"}).encode()
        writer.write(framed(mine))
        try:
            async with asyncio.timeout(PATIENCE):
                await reader.readuntil(json.loads(mine)["message"].encode())
            counts["served"] += 1
        except TimeoutError:
            self._ledger.wrong.append(f"a newcomer waited {PATIENCE:g} s for its own words")
        except (OSError, asyncio.IncompleteReadError):
            counts["ended"] += 1
        except asyncio.LimitOverrunError:  # others have said very much before
            counts["served"] += 1
        finally:
            writer.transport.abort()


class _Browser:
    """A member over WebSocket, as the page is one."""

    def __init__(self, name: str, room: str, ledger: Ledger) -> None:
        self._name, self._room = name, room
        self._ledger = ledger
        self._token, self._epoch = "", ""
        self._last: int | None = None
        self.joined = False
        self.socket: ClientConnection | None = None

    async def say(self, text: str) -> None:
        if self.socket is not None and self.joined:
            text = f"{self._name} {text}"
            self._ledger.say(self._name, text)
            with contextlib.suppress(WebSocketException):
                await self.socket.send(json.dumps({"message": text}))

    async def listen(self, socket_: ClientConnection) -> None:
        self.socket = socket_
        socket_.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        join: dict[str, Any] = {"name": self._name, "room": self._room}
        if self._token:
            join |= {"token": self._token, "after": self._last, "epoch": self._epoch}
        await socket_.send(json.dumps({"join": join}))
        async for data in socket_:
            self._take(json.loads(data))
        raise ConnectionResetError("the server has closed it")

    def _take(self, told: dict[str, Any]) -> None:
        if "welcome" in told:
            welcome = told["welcome"]
            self.joined = True
            self._token, self._epoch = welcome["token"], welcome["epoch"]
            if self._last is not None and (welcome["lost"] or not welcome["recovered"]):
                self._ledger.wrong.append(f"{self._name}: not resumed: {welcome}")
        elif "seq" in told:
            self._last = self._ledger.hear(self._name, self._room, self._last, told["seq"], told["message"])
        elif "error" in told:
            self._ledger.wrong.append(f"{self._name}: {told['error']}")
