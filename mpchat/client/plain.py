"""Chat in lines: each line of stdin is said, each message is a line of stdout, notices go to stderr.

For pipes and scripts, so both streams are UTF-8 whatever the locale says. The program ends after the end of
stdin, but not before its own last message came back: ``echo hi | mpchat chat --plain`` shows ``hi``.
"""

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator

from mpchat.client.blocking import BlockingChat, connect_blocking
from mpchat.client.conversation import DEFAULT_ROOM, STEADY, State
from mpchat.client.core import Connected, Disconnected, Event, Joined, Left, Message, Refused, Welcome
from mpchat.client.lines import (
    HELP,
    NAMED_HELP,
    Action,
    Command,
    Enter,
    Incomplete,
    Say,
    Tell,
    Unknown,
    parse,
    shown,
)
from mpchat.errors import ConnectionLostError, Exit, MpchatError, TimedOutError
from mpchat.protocol.frames import MAX_PAYLOAD
from mpchat.text import visible

# Seconds that the end of stdin waits for one's own messages to come back.
ECHO_TIMEOUT = 5.0
# Seconds without a server before a script is told that it failed: a restart takes less, a person would look.
RETURN_TIMEOUT = 30.0
# What a server says before it closes that lets nobody in: a script does not try until it does.
NO_ENTRY = frozenset({"full", "banned"})
# Bytes of one read from stdin, what a pipe holds.
STDIN_READ = 65_536


def note(text: str) -> None:
    """Say ``text`` to the user, as one line on stderr."""
    if sys.stderr is not None:
        print(f"mpchat: {text}", file=sys.stderr, flush=True)


def run_plain(host: str, port: int, *, name: str | None = None, room: str = DEFAULT_ROOM) -> Exit:
    """Chat until stdin ends, and return the exit code: 1 when any line could not be said."""
    if sys.stdout is None:
        note("stdout is closed, there is nowhere to write messages to")
        return Exit.FAILED
    # Closed at the start: nothing to say, then; its number may be the socket's by now.
    stdin = None if sys.stdin is None else sys.stdin.fileno()
    with connect_blocking(host, port, name=name, room=room) as chat:
        echoes = _Echoes()
        speaker = _Speaker(chat, echoes)
        # A daemon, because nothing interrupts a read from stdin.
        threading.Thread(target=speaker.run, args=(stdin,), name="mpchat-stdin", daemon=True).start()
        listened = _listen(chat, echoes)
        return listened or speaker.result


class _Echoes:
    """Which of one's own messages have yet to come back: the only way to learn that the server has them."""

    def __init__(self) -> None:
        self._pending: Counter[str] = Counter()
        self._changed = threading.Condition()

    def expect(self, text: str) -> None:
        with self._changed:
            self._pending[text] += 1

    def settle(self, text: str) -> None:
        """Note that ``text`` came back, or never will."""
        with self._changed:
            if self._pending[text] > 1:
                self._pending[text] -= 1
            else:
                del self._pending[text]
            self._changed.notify_all()

    def settle_oldest(self) -> bool:
        """Note that the server refused one: it answers in order, and the oldest is what it answers.

        False when there was none, so that it answers something else.
        """
        with self._changed:
            for text in self._pending:
                self.settle(text)
                return True
        return False

    def wait(self, timeout: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._pending, timeout)


class _Speaker:
    """Says what stdin says; runs in a thread of its own and closes the chat when it is done."""

    def __init__(self, chat: BlockingChat, echoes: _Echoes) -> None:
        self.result = Exit.OK
        self._chat = chat
        self._echoes = echoes

    def run(self, stdin: int | None) -> None:
        try:
            for line in _lines(stdin):
                if not self._handle(line):
                    break
            if not self._echoes.wait(ECHO_TIMEOUT):
                self._fail(f"what was sent last did not come back within {ECHO_TIMEOUT:g} s", Exit.TIMED_OUT)
        except OSError as error:
            self._fail(f"cannot read stdin: {error.strerror}")
        finally:
            self._chat.close()

    def _handle(self, raw: bytes) -> bool:
        """Do what a line asks for; false when it asks to leave."""
        if len(raw) > MAX_PAYLOAD:
            self._fail("a line is too long for a message, it is not sent")
            return True
        try:
            line = raw.decode()
        except UnicodeDecodeError as error:
            self._fail(f"a line is not UTF-8 at its byte {error.start}, it is not sent")
            return True
        match parse(line, named=self._chat.name is not None):
            case Unknown() | Incomplete() as wrong:
                self._fail(str(wrong))
            case Command.HELP:
                note(HELP if self._chat.name is None else NAMED_HELP)
            case Command.QUIT:
                return False
            case None:
                pass
            case action:
                return self._try(action)
        return True

    def _try(self, action: Action) -> bool:
        text = action.text if isinstance(action, Say | Tell) else None
        if text is not None:
            self._echoes.expect(text)
        try:
            self._do(action)
        except MpchatError as error:
            if text is not None:
                self._echoes.settle(text)
            if self._chat.state.final:
                return False
            self._fail(f"a line is not sent: {visible(str(error))}")
        return True

    def _do(self, action: Action) -> None:
        match action:
            case Say(text):
                self._chat.send(text)
            case Tell(name, text):
                self._chat.tell(name, text)
            case Enter(room):
                self._chat.enter(room)
            case Command.WHO:
                note(shown(self._chat.who()))
            case Command.ROOMS:
                note(shown(self._chat.rooms()))

    def _fail(self, text: str, result: Exit = Exit.FAILED) -> None:
        self.result = result
        note(text)


def _lines(stdin: int | None) -> Iterator[bytes]:
    """Yield the lines of descriptor ``stdin`` without their ends; of one too long only as much as shows it.

    Reads the descriptor itself: a thread inside ``sys.stdin`` would hold its lock when the program ends, and
    the interpreter aborts over that.
    """
    rest = b""
    while stdin is not None and (data := os.read(stdin, STDIN_READ)):
        *lines, rest = (rest + data).split(b"\n")
        yield from (line.removesuffix(b"\r") for line in lines)
        rest = rest[: MAX_PAYLOAD + 1]
    if rest:
        yield rest


def _listen(chat: BlockingChat, echoes: _Echoes) -> Exit:
    """Write messages until the chat is over; returns ``Exit.OK`` when the speaker closed it, and the server
    had refused nothing that was said."""
    patience, own, result = Patience(), _Own(chat), Exit.OK
    while True:
        try:
            event = chat.next_event(patience.left(time.monotonic()))
        except ConnectionLostError:
            return result if chat.state is State.CLOSED else Exit.FAILED
        except TimedOutError:
            note(f"no server for {RETURN_TIMEOUT:g} s, giving up")
            return Exit.FAILED
        patience.note(event, time.monotonic())
        if isinstance(event, Message):
            try:
                _write_line(shown(event))
            except OSError as error:
                return _stdout_gone(error)
            if own.said_now(event):
                echoes.settle(event.text)
        elif isinstance(event, Welcome):
            own.note(event)
        elif not isinstance(event, Joined | Left) and (not isinstance(event, Connected) or event.again):
            note(shown(event))
        if isinstance(event, Refused):
            if event.code in NO_ENTRY:
                return Exit.FAILED
            if echoes.settle_oldest():
                result = Exit.FAILED


class _Own:
    """Tells what one has said in this chat from what somebody else said, or oneself in an earlier one."""

    def __init__(self, chat: BlockingChat) -> None:
        self._chat = chat
        self._epoch = ""
        # How many messages a room had, by its numbering, when one first came in.
        self._before: dict[tuple[str, str], int] = {}

    def note(self, welcome: Welcome) -> None:
        self._epoch = welcome.epoch
        self._before.setdefault((welcome.epoch, welcome.room), welcome.seq)

    def said_now(self, message: Message) -> bool:
        """Without a name nobody can tell, and every message with the right text will do."""
        if message.room is None or message.seq is None:
            return message.sender == self._chat.name
        begun = message.seq > self._before.get((self._epoch, message.room), -1)
        return message.sender == self._chat.name and begun


class Patience:
    """When to give up on a server that is gone. One that only accepts and closes does not count as back."""

    def __init__(self) -> None:
        self._connected_at = 0.0
        self._deadline: float | None = None
        self._connected = False

    def note(self, event: Event, now: float) -> None:
        if isinstance(event, Connected):
            self._connected = True
            self._connected_at = now
        elif isinstance(event, Disconnected):
            self._connected = False
            if self._deadline is None or now - self._connected_at >= STEADY:
                self._deadline = now + RETURN_TIMEOUT

    def left(self, now: float) -> float | None:
        """Return the seconds to wait for the next event, None for any."""
        if self._connected or self._deadline is None:
            return None
        return max(0.0, self._deadline - now)


def _write_line(line: str) -> None:
    sys.stdout.buffer.write(line.encode() + b"\n")
    sys.stdout.buffer.flush()


def _stdout_gone(error: OSError) -> Exit:
    """Return the exit code for a stdout that takes no more; a reader that left (``| head``) is no failure."""
    # What is still in the buffer must go somewhere when the interpreter flushes it at its end.
    with open(os.devnull, "wb") as devnull:
        os.dup2(devnull.fileno(), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return Exit.OK
    note(f"cannot write to stdout: {error.strerror}")
    return Exit.FAILED
