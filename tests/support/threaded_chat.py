"""The blocking client behind the asyncio client's face, so that one scenario runs on either."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from mpchat import connect_blocking
from mpchat.client.conversation import State
from mpchat.client.core import Event, Message
from support.waiting import eventually


async def soon(predicate: Callable[[], object], what: str) -> None:
    """Wait for ``predicate`` in a thread, so that the loop goes on."""
    await asyncio.to_thread(eventually, predicate, what)


class InThreads:
    """The blocking client, each call in a thread."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._args, self._options = args, options

    async def __aenter__(self) -> Self:
        self.chat = await asyncio.to_thread(connect_blocking, *self._args, **self._options)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def state(self) -> State:
        return self.chat.state

    @property
    def _conversation(self) -> Any:
        return self.chat._conversation

    async def send(self, text: str) -> None:
        await asyncio.to_thread(self.chat.send, text)

    async def recv(self, timeout: float | None = None) -> Message:
        return await asyncio.to_thread(self.chat.recv, timeout)

    async def next_event(self, timeout: float | None = None) -> Event:
        return await asyncio.to_thread(self.chat.next_event, timeout)

    async def close(self) -> None:
        await asyncio.to_thread(self.chat.close)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        message = await asyncio.to_thread(next, self.chat, None)
        if message is None:
            raise StopAsyncIteration
        return message
