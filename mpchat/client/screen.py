"""Chat in a terminal: messages appear above the line that the user is typing.

Prints text from the server only through ``lines``. Typing never waits for the network: actions stand in a
queue, and a task does them in order. No typed or pasted line is dropped: the queue has no limit but the
user's own text, and a line that the server does not take is tried again. A member gets more than a plain
client: a time and a colour for each message, a status line, and Tab.
"""

import asyncio
import math
import os
import shutil
import time
import zlib
from collections.abc import Awaitable, Callable, Iterable
from contextlib import nullcontext, suppress
from itertools import takewhile
from typing import TYPE_CHECKING, Unpack

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import Condition, has_focus
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.key_binding.bindings.completion import display_completions_like_readline
from prompt_toolkit.key_binding.key_processor import KeyPress
from prompt_toolkit.keys import Keys
from prompt_toolkit.patch_stdout import patch_stdout
from prompt_toolkit.shortcuts import CompleteStyle
from prompt_toolkit.utils import get_cwidth

from mpchat.client.aio import Chat, connect
from mpchat.client.board import Board
from mpchat.client.conversation import DEFAULT_ROOM
from mpchat.client.core import Message, Rooms, Welcome, Who
from mpchat.client.lines import (
    Action,
    Command,
    Enter,
    Incomplete,
    Moderate,
    Say,
    Tell,
    Unknown,
    help_for,
    is_told,
    parse,
    said,
    shown,
)
from mpchat.client.proof import Shown
from mpchat.errors import ConnectionLostError, Exit, MpchatError, TimedOutError
from mpchat.text import visible

if TYPE_CHECKING:
    from mpchat.client.secure import Tls

# Seconds that leaving waits for the server to take an earlier line; long enough for every server that reads.
LEAVE_TIMEOUT = 2.0
# Seconds after a Tab in which more input makes it a part of pasted text. A hand takes longer.
PASTE_PAUSE = 0.05
# Keys that are characters in pasted text.
_TEXT_KEYS: dict[str, str] = {Keys.Enter: "\n", Keys.Tab: "\t"}
NOT_SENT = "left before everything was sent; lines that were not sent: {}"
# Dim, then normal. A message cannot look like this, because its escapes are made visible.
NOTICE = "\x1b[2m{}\x1b[0m"
# The colours, of 256, that are readable on black and on white.
COLOURS = (25, 29, 31, 61, 64, 66, 91, 94, 97, 100, 125, 127, 130, 131, 133, 136, 160, 166, 168, 172)


async def run_screen(
    host: str,
    port: int,
    *,
    name: str | None = None,
    room: str = DEFAULT_ROOM,
    tls: "Tls" = False,
    **proof: Unpack[Shown],
) -> Exit:
    """Chat until the user leaves, or until the server rejects ``name`` after a loss.

    Raises ``ConnectError`` when no server answers at the beginning, ``RefusedError`` for a rejected name.
    """
    async with connect(host, port, name=name, room=room, tls=tls, **proof) as chat:
        screen = _Screen(chat, None if name is None and not proof else Board())
        # Raw, or the escapes that dim notices would be printed as text.
        with patch_stdout(raw=True):
            return await screen.run()


class _Screen:
    """One user's chat; a member has a ``board``."""

    def __init__(self, chat: Chat, board: Board | None) -> None:
        self._chat = chat
        self._board = board
        # Each action with the number of its visit: each /join that the user types begins a visit. And the
        # last visit whose room was rejected: its lines are not sent.
        self._outgoing: asyncio.Queue[tuple[Action, int]] = asyncio.Queue()
        self._visit = 0
        self._refused_visit = -1
        # True while a line of the queue is being sent.
        self._doing = False
        self._moved = asyncio.Event()
        self._prompt = _new_prompt(board)
        # While text is printed above the line, prompt_toolkit would let the terminal echo what is typed.
        self._prompt.input.cooked_mode = nullcontext  # type: ignore[method-assign]

    async def run(self) -> Exit:
        """Show, send and prompt until the user or the server ends the chat."""
        async with asyncio.TaskGroup() as tasks:
            showing = tasks.create_task(self._show())
            workers = [showing, tasks.create_task(self._deliver()), tasks.create_task(self._learn())]
            reading = tasks.create_task(self._read_lines())
            await asyncio.wait({reading, showing}, return_when=asyncio.FIRST_COMPLETED)
            over = not reading.done()
            if over:
                reading.cancel()
            else:
                await self._leave()
            for worker in workers:
                worker.cancel()
        return Exit.FAILED if over else Exit.OK

    async def _leave(self) -> None:
        """Wait for earlier lines for as long as the server takes them."""
        before = math.inf
        while (waiting := self._waiting) < before:
            if before < math.inf:
                _notice(f"lines that are still to be sent: {waiting}; Ctrl-C leaves without them")
            before = waiting
            try:
                await asyncio.wait_for(self._outgoing.join(), LEAVE_TIMEOUT)
            except TimeoutError:
                continue
            except asyncio.CancelledError:  # Ctrl-C
                _notice(NOT_SENT.format(self._waiting))
                raise
            else:
                return
        _notice(NOT_SENT.format(waiting))

    async def _read_lines(self) -> None:
        """Prompt until the user wants to leave."""
        # Raw between two prompts too: keys typed there, Ctrl-C included, go to the next prompt, without echo.
        with suppress(KeyboardInterrupt, EOFError), self._prompt.input.raw_mode():
            while True:
                typed = await self._prompt.prompt_async()
                # Pasted text can have more than one line.
                for line in typed.split("\n"):
                    if not self._handle(line):
                        return

    def _handle(self, line: str) -> bool:
        """Act on ``line``; return False when the user wants to leave."""
        match parse(line, named=self._board is not None):
            case Unknown() | Incomplete() as wrong:
                _notice(str(wrong))
            case Command.HELP:
                _notice(help_for(self._chat.name, self._chat.role))
            case Command.QUIT:
                return False
            case None:
                pass
            case action:
                self._visit += isinstance(action, Enter)
                self._outgoing.put_nowait((action, self._visit))
        return True

    async def _deliver(self) -> None:
        while True:
            action, visit = await self._outgoing.get()
            self._doing = True
            try:
                if isinstance(action, Say) and visit == self._refused_visit:
                    raise MpchatError("not sent, its room was not entered")
                await self._do(action)
            except MpchatError as error:
                text = f": {visible(action.text)}" if isinstance(action, Say | Tell) else ""
                _notice(f"{visible(str(error))}{text}")
                if isinstance(action, Enter):
                    self._refused_visit = visit
                    if visit == self._visit:  # else the user has asked for another room meanwhile
                        # The user knows now: further lines are for the old room.
                        self._visit += 1
            finally:
                self._doing = False
                self._outgoing.task_done()

    async def _do(self, action: Action) -> None:
        match action:
            case Say(text):
                await self._insist(lambda: self._chat.send(text))
            case Tell(name, text):
                await self._insist(lambda: self._chat.tell(name, text))
            case Enter(room):
                await self._chat.enter(room)
            case Moderate(word, target, seconds):
                _notice(shown(await self._chat.moderate(word, target, seconds)))
            case Command.WHO:
                self._answer(await self._chat.who())
            case Command.ROOMS:
                self._answer(await self._chat.rooms())

    async def _insist(self, send: Callable[[], Awaitable[None]]) -> None:
        """Send a line; while the server does not take it, try again until the chat is over."""
        told = False
        while True:
            try:
                return await send()
            except (TimedOutError, ConnectionLostError) as error:
                if self._chat.state.final:
                    raise
                if not told:
                    _notice(f"{visible(str(error))}; trying again, lines that wait: {self._waiting}")
                    told = True

    @property
    def _waiting(self) -> int:
        """How many lines are still to be sent."""
        return self._outgoing.qsize() + self._doing

    def _answer(self, answer: Who | Rooms) -> None:
        if self._board is not None:
            self._board.note(answer)
        _notice(shown(answer))

    async def _show(self) -> None:
        async for event in self._chat.events():
            if self._board is not None:
                self._board.note(event)
                self._prompt.app.invalidate()
            if isinstance(event, Welcome):
                self._moved.set()
            if not isinstance(event, Message):
                if is_told(event):
                    _notice(shown(event))
            elif self._board is None:
                print(shown(event))
            else:
                print(coloured(event))

    async def _learn(self) -> None:
        """Ask for names and rooms after each welcome, for Tab to complete."""
        while self._board is not None:
            await self._moved.wait()
            self._moved.clear()
            with suppress(MpchatError):
                self._board.note(await self._chat.who())
                self._board.note(await self._chat.rooms())


def _new_prompt(board: Board | None) -> PromptSession[str]:
    # Erased, because each message comes back from the server, in its place in the conversation.
    keys = KeyBindings()
    keys.add(Keys.Any, filter=has_focus(DEFAULT_BUFFER) & Condition(_more_came))(_insert_burst)
    if board is None:
        keys.add("tab")(lambda event: event.current_buffer.insert_text("\t"))
        return PromptSession("> ", erase_when_done=True, key_bindings=keys)
    keys.add("tab")(_Tab().press)
    return PromptSession(
        "> ",
        erase_when_done=True,
        key_bindings=keys,
        completer=_BoardCompleter(board),
        complete_while_typing=False,
        # The other styles keep eight lines free for a menu.
        complete_style=CompleteStyle.READLINE_LIKE,
        bottom_toolbar=lambda: clipped(f" {board.status()}", shutil.get_terminal_size().columns),
    )


def _more_came() -> bool:
    """Tell whether more keys have come with this one, as in a paste that the terminal does not mark."""
    return bool(get_app().key_processor.input_queue)


def _text_of(press: KeyPress) -> str | None:
    """Return what a key is in a text, None for a key that is no text."""
    if press.key in _TEXT_KEYS:
        return _TEXT_KEYS[press.key]
    return press.data if press.data == press.key else None


def _insert_burst(event: KeyPressEvent) -> None:
    """Insert a character and the text that came with it: key by key it would take half a millisecond each.

    The last Enter is left, because it ends the input, and so is a Tab at the end, which may be a question.
    """
    queue = event.key_processor.input_queue
    keys = list(takewhile(lambda press: _text_of(press) is not None, queue))
    ends = [number for number, press in enumerate(keys) if press.key == Keys.Enter]
    if ends:
        del keys[ends[-1] :]
    elif keys and keys[-1].key == Keys.Tab:
        keys.pop()
    for _ in keys:
        queue.popleft()
    event.current_buffer.insert_text(event.data + "".join(filter(None, map(_text_of, keys))))


class _Tab:
    """Tells a Tab that asks for a completion from a tab in pasted text, which other text follows at once.

    Not every terminal marks pasted text (bracketed paste). So a tab is a character first, and becomes a
    question when nothing else has come for a moment.
    """

    def __init__(self) -> None:
        self._presses = 0

    def press(self, event: KeyPressEvent) -> None:
        """Insert the character. Complete instead, a moment later, if it was alone."""
        self._presses += 1
        event.current_buffer.insert_text("\t")
        if event.key_processor.input_queue:  # more came with it
            return
        asyncio.get_running_loop().call_later(
            PASTE_PAUSE, self._complete, event, event.current_buffer.document, self._presses
        )

    def _complete(self, event: KeyPressEvent, document: Document, press: int) -> None:
        buffer = event.current_buffer
        if press != self._presses or buffer.document != document:
            return
        buffer.delete_before_cursor()
        display_completions_like_readline(event)
        event.app.invalidate()


class _BoardCompleter(Completer):
    """Completes the word before the cursor with words of the board."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Return the words that the one before the cursor can become."""
        word, completions = self._board.completions(document.text_before_cursor)
        return [Completion(each, start_position=-len(word)) for each in completions]


def coloured(message: Message) -> str:
    """Return ``message`` as a line with its time, and its name in the name's colour."""
    before, name, after = said(message, named=True)
    when = "" if message.at is None else f"{NOTICE.format(_clock(message.at))} "
    if "NO_COLOR" in os.environ or not name:
        return f"{when}{before}{name}{after}"
    return f"{when}{before}\x1b[38;5;{colour(name)}m{name}\x1b[39m{after}"


def colour(name: str) -> int:
    """Return the colour of ``name``, one of 256: the same in every run, and for any case of letters."""
    return COLOURS[zlib.crc32(name.casefold().encode()) % len(COLOURS)]


def _clock(at: float) -> str:
    """Return the local time of day; dashes for a time that this machine cannot express."""
    try:
        return time.strftime("%H:%M", time.localtime(at))
    except (OverflowError, ValueError, OSError):
        return "--:--"


def clipped(text: str, columns: int) -> str:
    """Return as much of ``text`` as fits, with an ellipsis for the rest. Wide characters take two columns."""
    if get_cwidth(text) <= columns:
        return text
    while text and get_cwidth(text) > columns - 1:
        text = text[:-1]
    return f"{text}…"


def wrapped(text: str, columns: int, indent: str = "  ") -> list[str]:
    """Return ``text`` in lines broken between words; the terminal breaks a word longer than a line."""
    lines, line = list[str](), ""
    for word in text.split(" "):
        longer = f"{line} {word}" if line else word
        if line and get_cwidth(longer) > columns:
            lines.append(line)
            longer = indent + word
        line = longer
    return [*lines, line]


def _notice(text: str) -> None:
    """Print a notice, broken between words; the terminal would break it anywhere."""
    # One column less than the terminal has: a few terminals break a line that fills the last column.
    columns = max(20, shutil.get_terminal_size().columns - 1)
    for line in wrapped(f"* {text}", columns):
        print(NOTICE.format(line))
