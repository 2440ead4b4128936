"""Sequencer: where messages get their order. Pure; the hub owns it, the time is given to it.

Whatever a room is told goes to everybody in exactly the order in which it was told. Leaving is told to the
room too: one client's leaving at once, that of many within :data:`NOTICE_GATHER` as one notice.
"""

from mpchat.ipc.limits import BATCH_SIZE
from mpchat.protocol.messages import message_frame

# Seconds in which further leavers share a notice. Long enough for a thousand closed sockets to be read,
# short enough that nobody takes it for a delay.
NOTICE_GATHER = 0.1
# Addresses that a shared notice names; the rest is counted. Keeps the notice far below a frame's size.
NAMED_LEAVERS = 8


def leaving_text(addresses: list[str], unnamed: int = 0) -> str:
    """Return the lecture's notice for one leaver, or one that counts them all for many.

    ``unnamed`` more clients have gone whose addresses nobody knows any more: their worker died.
    """
    count = len(addresses) + unnamed
    named = addresses[:NAMED_LEAVERS]
    if count == 1 and named:
        return f" Disconnect : {named[0]} "
    clients = f"{count} client{'s' if count != 1 else ''}"
    if not named:
        return f" Disconnect : {clients} "
    rest = count - len(named)
    more = [f"{rest} more"] if rest else []
    return f" Disconnect : {', '.join(named + more)} ({clients}) "


class Sequencer:
    """Gathers what comes in during one turn of the hub's loop and gives it out as one batch."""

    def __init__(self, *, notices: bool = True) -> None:
        self.notices = notices
        # The number of the last message; every message has one, and they have no gaps.
        self.sequence = 0
        self._posts: list[tuple[int, bytes]] = []
        self._left: list[str] = []
        self._left_unnamed = 0
        self._next_notice = 0.0

    def post(self, count: int, frames: bytes) -> None:
        """Number ``count`` messages, encoded one after the other in ``frames``."""
        self._posts.append((count, frames))
        self.sequence += count

    def say(self, text: str) -> None:
        """Number one message of the server's own. Raises :class:`ProtocolError` if it fits no frame."""
        self.post(1, message_frame(text))

    def leave(self, addresses: list[str], unnamed: int = 0) -> None:
        """Remember who went; :meth:`batch` tells the room."""
        if self.notices:
            self._left += addresses
            self._left_unnamed += unnamed

    def notice_due(self) -> float | None:
        """Return when the waiting notice is due, on the clock of :meth:`batch`; None: none waits."""
        return self._next_notice if self._left or self._left_unnamed else None

    def batch(self, now: float) -> list[tuple[int, bytes]]:
        """Return what came since the last call, in order: pairs of how many messages and their frames.

        A due notice is among them. Small posts are joined as long as the result fits one queue item.
        """
        if (due := self.notice_due()) is not None and now >= due:
            self.say(leaving_text(self._left, self._left_unnamed))
            self._left, self._left_unnamed = [], 0
            self._next_notice = now + NOTICE_GATHER
        posts, self._posts = self._posts, []
        return posts if len(posts) < 2 else joined(posts)


def joined(posts: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Join posts so that each batch fits one queue item; a longer post stands alone."""
    batches: list[tuple[int, bytes]] = []
    frames: list[bytes] = []
    count = size = 0
    for number, each in posts:
        if frames and size + len(each) > BATCH_SIZE:
            batches.append((count, b"".join(frames)))
            frames, count, size = [], 0, 0
        frames.append(each)
        count += number
        size += len(each)
    if frames:
        batches.append((count, b"".join(frames)))
    return batches
