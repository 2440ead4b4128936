"""Chat in a terminal: what others say appears above the line that one is typing.

Prints nothing of the server's but through ``lines.shown``. Typing never waits for the network: lines to send
stand in a short queue, which a task of its own sends in order.
"""

import asyncio
import shutil
import textwrap
from contextlib import suppress

from prompt_toolkit import PromptSession
from prompt_toolkit.patch_stdout import patch_stdout

from ..errors import Exit, MpchatError
from ..text import visible
from .aio import Chat, connect
from .core import Message
from .lines import HELP, Command, Say, Unknown, parse, shown

# Lines typed or pasted that may wait while the server does not take any.
OUTGOING_LINES = 1000
# Seconds that leaving waits for lines typed before it; long enough for any server that takes them at all.
LEAVE_TIMEOUT = 2.0
# Dim, then normal. Nobody else's text can look like this, since their escapes are made visible.
NOTICE = "\x1b[2m{}\x1b[0m"


async def run_screen(host: str, port: int) -> Exit:
    """Chat until the user leaves. Raises ``ConnectError`` when there is no server at the beginning."""
    async with connect(host, port) as chat:
        outgoing: asyncio.Queue[str] = asyncio.Queue(OUTGOING_LINES)
        # Raw, or the dimming of notices would be shown and not done.
        with patch_stdout(raw=True):
            async with asyncio.TaskGroup() as tasks:
                workers = [tasks.create_task(_show(chat)), tasks.create_task(_deliver(chat, outgoing))]
                await _read_lines(outgoing)
                try:
                    await asyncio.wait_for(outgoing.join(), LEAVE_TIMEOUT)
                except TimeoutError:
                    _notice("left before everything was sent")
                for worker in workers:
                    worker.cancel()
    return Exit.OK


async def _read_lines(outgoing: "asyncio.Queue[str]") -> None:
    """Prompt until the user wants to leave."""
    # Erased, because a line that was said comes back from the server, in its place in the conversation.
    session: PromptSession[str] = PromptSession("> ", erase_when_done=True)
    with suppress(KeyboardInterrupt, EOFError):
        while True:
            typed = await session.prompt_async()
            # More than one line when they were pasted.
            for line in typed.split("\n"):
                if not _handle(line, outgoing):
                    return


def _handle(line: str, outgoing: "asyncio.Queue[str]") -> bool:
    """Do what ``line`` asks for; false when it asks to leave."""
    match parse(line):
        case Say(text):
            _enqueue(text, outgoing)
        case Unknown() as unknown:
            _notice(str(unknown))
        case Command.HELP:
            _notice(HELP)
        case Command.QUIT:
            return False
    return True


def _enqueue(text: str, outgoing: "asyncio.Queue[str]") -> None:
    try:
        outgoing.put_nowait(text)
    except asyncio.QueueFull:
        _notice(f"not sent, {OUTGOING_LINES} lines are waiting already: {visible(text)}")


async def _deliver(chat: Chat, outgoing: "asyncio.Queue[str]") -> None:
    while True:
        text = await outgoing.get()
        try:
            await chat.send(text)
        except MpchatError as error:
            _notice(f"{error}: {visible(text)}")
        finally:
            outgoing.task_done()


async def _show(chat: Chat) -> None:
    async for event in chat.events():
        if isinstance(event, Message):
            print(shown(event))
        else:
            _notice(shown(event))


def _notice(text: str) -> None:
    """Print a line of our own, broken between words where the terminal would break it anywhere."""
    # One less than there is: a few terminals break after the last column, not before the next.
    columns = max(20, shutil.get_terminal_size().columns - 1)
    for line in textwrap.wrap(f"* {text}", columns, subsequent_indent="  "):
        print(NOTICE.format(line))
