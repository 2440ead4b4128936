"""Chat in lines: each line of stdin is sent, each message is a line of stdout, notices go to stderr.

For pipes and scripts, so both streams are UTF-8 whatever the locale says. The program ends after the end of
stdin, but not before its own last message came back: ``echo hi | mpchat chat --plain`` shows ``hi``.
"""

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Unpack

from mpchat.client.blocking import BlockingChat, connect_blocking
from mpchat.client.conversation import DEFAULT_ROOM, STEADY, State
from mpchat.client.core import (
    Connected,
    Disconnected,
    Event,
    Joined,
    Left,
    Message,
    Refused,
    Rejected,
    Welcome,
)
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
    refusal,
    shown,
)
from mpchat.client.proof import Shown
from mpchat.errors import ConnectionLostError, Exit, MpchatError, TimedOutError
from mpchat.protocol.frames import MAX_PAYLOAD
from mpchat.text import visible

if TYPE_CHECKING:
    from mpchat.client.secure import Tls

# Seconds that the end of stdin waits for the own messages to come back.
ECHO_TIMEOUT = 5.0
# Seconds without a server before the program fails: a restart takes less.
RETURN_TIMEOUT = 30.0
# Error codes of a server that rejects the client and closes: a script fails and does not try again.
NO_ENTRY = frozenset({"full", "banned", "too_fast", "tls_required"})
# Error code of a server that wants a proof for each message, and closes a connection that shows none.
AUTH_REQUIRED = "auth_required"
# Bytes of one read from stdin: the size of a pipe.
STDIN_READ = 65_536


def note(text: str) -> None:
    """Print ``text`` for the user, as one line on stderr."""
    if sys.stderr is not None:
        print(f"mpchat: {text}", file=sys.stderr, flush=True)


def run_plain(
    host: str,
    port: int,
    *,
    name: str | None = None,
    room: str = DEFAULT_ROOM,
    tls: "Tls" = False,
    **proof: Unpack[Shown],
) -> Exit:
    """Chat until stdin ends, and return the exit code: 1 when any line could not be sent."""
    if sys.stdout is None:
        note("stdout is closed, there is nowhere to write messages to")
        return Exit.FAILED
    # None: stdin was closed at the start, and its descriptor may be the socket's by now.
    stdin = None if sys.stdin is None else sys.stdin.fileno()
    with connect_blocking(host, port, name=name, room=room, tls=tls, **proof) as chat:
        echoes = _Echoes()
        speaker = _Speaker(chat, echoes)
        # A daemon thread, because a read from stdin cannot be interrupted.
        threading.Thread(target=speaker.run, args=(stdin,), name="mpchat-stdin", daemon=True).start()
        listened = _Listener(chat, echoes).run()
        return listened or speaker.result


class _Echoes:
    """The own messages that have not come back yet: only that proves that the server has them."""

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

    def settle_oldest(self, times: int) -> bool:
        """Note that the server rejected so many of the oldest messages: it answers in order.

        Return False when no message is pending, so the error answers something else.
        """
        with self._changed:
            oldest = list(islice(self._pending.elements(), times))
            for text in oldest:
                self.settle(text)
        return bool(oldest)

    def wait(self, timeout: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._pending, timeout)


class _Speaker:
    """Sends the lines of stdin; runs in a thread of its own and closes the chat at the end."""

    def __init__(self, chat: BlockingChat, echoes: _Echoes) -> None:
        self.result = Exit.OK
        self._chat = chat
        self._echoes = echoes
        # True after a room was rejected, until a room is entered: lines in between were meant for another
        # room.
        self._astray = False

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
        """Act on a line; return False when it asks to leave."""
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
                note(help_for(self._chat.name, self._chat.role))
            case Command.QUIT:
                return False
            case None:
                pass
            case action:
                return self._try(action)
        return True

    def _try(self, action: Action) -> bool:
        if self._astray and isinstance(action, Say):
            self._fail("a line is not sent: its room was not entered")
            return True
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
                self._astray = True
                self._chat.enter(room)
                self._astray = False
            case Moderate(word, target, seconds):
                note(shown(self._chat.moderate(word, target, seconds)))
            case Command.WHO:
                note(shown(self._chat.who()))
            case Command.ROOMS:
                note(shown(self._chat.rooms()))

    def _fail(self, text: str, result: Exit = Exit.FAILED) -> None:
        self.result = result
        note(text)


def _lines(stdin: int | None) -> Iterator[bytes]:
    """Yield the lines of descriptor ``stdin`` without their ends; a line that is too long is cut.

    Reads the descriptor itself: a thread inside ``sys.stdin`` would hold its lock when the program ends, and
    then the interpreter aborts.
    """
    rest = b""
    while stdin is not None and (data := os.read(stdin, STDIN_READ)):
        *lines, rest = (rest + data).split(b"\n")
        yield from (line.removesuffix(b"\r") for line in lines)
        rest = rest[: MAX_PAYLOAD + 1]
    if rest:
        yield rest


class _Listener:
    """Writes messages to stdout and notices to stderr until the chat is over."""

    def __init__(self, chat: BlockingChat, echoes: _Echoes) -> None:
        self._chat = chat
        self._echoes = echoes
        self._patience = Patience()
        self._own = _Own(chat)
        self._result = Exit.OK
        # Why the server did not let the client in, or why no join could be sent; None since the last welcome.
        self._rejected: Rejected | None = None

    def run(self) -> Exit:
        """Return ``Exit.OK`` when the speaker closed the chat and the server rejected no message."""
        while True:
            try:
                event = self._chat.next_event(self._patience.left(time.monotonic()))
            except ConnectionLostError:
                return self._result if self._chat.state is State.CLOSED else Exit.FAILED
            except TimedOutError:
                note(self._why_given_up())
                return Exit.FAILED
            self._patience.note(event, time.monotonic())
            if isinstance(event, Message):
                try:
                    self._message(event)
                except OSError as error:
                    return _stdout_gone(error)
            else:
                self._notice(event)
            if isinstance(event, Refused):
                if event.code in NO_ENTRY or (event.code == AUTH_REQUIRED and self._chat.name is None):
                    return Exit.FAILED
                if self._echoes.settle_oldest(event.times):
                    self._result = Exit.FAILED

    def _message(self, message: Message) -> None:
        """Write a message to stdout; raises ``OSError`` when that is broken."""
        _write_line(shown(message, named=self._chat.name is not None))
        if self._own.said_now(message):
            self._echoes.settle(message.text)

    def _notice(self, event: Event) -> None:
        match event:
            case Welcome():
                self._own.note(event)
                self._rejected = None
                if event.again and is_told(event):
                    note(shown(event))
            case Joined() | Left() | Connected(again=False):
                pass
            case _:
                note(shown(event))
        if isinstance(event, Rejected):
            self._rejected = event

    def _why_given_up(self) -> str:
        why, last = "no server", ""
        if self._rejected is not None:
            why, last = "not let in", f": {refusal(self._rejected.code, self._rejected.text)}"
        return f"{why} for {RETURN_TIMEOUT:g} s, giving up{last}"


class _Own:
    """Tells messages of this chat's user from messages of other clients and of earlier chats."""

    def __init__(self, chat: BlockingChat) -> None:
        self._chat = chat
        self._epoch = ""
        # The last number of each room, by epoch, when the user first entered it.
        self._before: dict[tuple[str, str], int] = {}

    def note(self, welcome: Welcome) -> None:
        before = welcome.seq
        if welcome.again:
            # The connection is the same, so its own messages may be among those that follow. After a loss
            # they have other numbers.
            known = self._before.get((self._epoch, welcome.room), welcome.seq)
            before = known if welcome.lost is None else -1
        self._epoch = welcome.epoch
        self._before.setdefault((welcome.epoch, welcome.room), before)

    def said_now(self, message: Message) -> bool:
        """Tell whether the message may be the user's; for a plain client every message may be."""
        if message.room is None or message.seq is None:
            return message.sender == self._chat.name
        begun = message.seq > self._before.get((self._epoch, message.room), -1)
        return message.sender == self._chat.name and begun


class Patience:
    """Decides when to give up on a lost server. One that only accepts and closes does not count as back."""

    def __init__(self) -> None:
        """Begin with no connection lost."""
        self._connected_at = 0.0
        self._deadline: float | None = None
        self._connected = False

    def note(self, event: Event, now: float) -> None:
        """Note a connect or a loss at ``now``, in monotonic seconds."""
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
    """Return the exit code for a broken stdout; a reader that left (``| head``) is no failure."""
    # The interpreter flushes the rest of the buffer at its end, so it needs a descriptor that takes it.
    with open(os.devnull, "wb") as devnull:
        os.dup2(devnull.fileno(), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return Exit.OK
    note(f"cannot write to stdout: {error.strerror}")
    return Exit.FAILED
