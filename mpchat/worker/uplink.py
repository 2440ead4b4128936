"""Uplink: what goes up to the hub: posts, requests, leavers, beats and answers, in order.

Posts are gathered for a moment, because a trip to the hub and back wakes two processes. No call waits: when
the hub is behind, the link keeps what it is given, and the worker stops reading from its clients.
"""

from functools import partial
from typing import Any

from mpchat.ipc.channel import ITEM_SIZE, Link
from mpchat.ipc.items import Beat, Up, encode_beat
from mpchat.ipc.lifetime import Lifetime
from mpchat.ipc.limits import BATCH_SIZE
from mpchat.protocol.session import REQUEST
from mpchat.worker.counters import Counters
from mpchat.worker.post_timing import next_post
from mpchat.worker.request_line import MORE_SIZE, RequestLine

# Bytes of posts that are little for one time.
LITTLE = ITEM_SIZE // 8
# Leavers in one item, and what one takes in bytes: an address of up to 47, a number, a reason.
LEAVERS_PER_ITEM = 300
LEAVER_COST = 80
# What an identity takes in an item, in bytes.
IDENTITY_COST = 10
# What an entry of a head takes, in bytes: an address and two numbers.
HEAD_COST = 40
# The sender of a post: an address, or the identity of a connection that has asked to join.
Sender = int | str


class Uplink:
    """A worker's way to the hub."""

    def __init__(self, link: Link, lifetime: Lifetime, counters: Counters, gather: float) -> None:
        """``gather`` is for how long posts are gathered, in seconds."""
        self.link = link
        self.gather = gather
        # Sender, number of messages, and their frames, in order; requests stand among them.
        self.posts: list[tuple[Sender | tuple[int, str], int, bytes]] = []
        self.posts_size = 0
        # Clients that have gone: an address, or identity, address and reason.
        self.left: list[str | tuple[int, str, str]] = []
        # How many connections have become speakers since that was last said, less those that have ended.
        self.speakers = 0
        # Clients that have ended their streams: their identities.
        self.said_all: list[int] = []
        # What the hub is to answer; what waits there is not among the posts yet.
        self.requests = RequestLine()
        # True while connections wait for their last posts to be in the order: then nothing is gathered.
        self.hurried = False
        self._lifetime = lifetime
        self.counters = counters
        # When posts may go up again (seconds, monotonic).
        self._post_due = 0.0
        # Until when further posts come as often as they are gathered; True if the last ones did, and few.
        self._often_until = 0.0
        self._often = False
        self._drained = False

    @property
    def under_way(self) -> int:
        """Bytes that clients have sent and that are not in the order yet."""
        return self.posts_size + self.link.under_way

    def due(self) -> float | None:
        """Return when :meth:`work` wants a call (seconds, monotonic); None: not at all."""
        return self._post_due if self.posts or self.left or self.said_all else None

    def rest(self, now: float) -> float:
        """Return for how long what clients send would only be gathered (seconds), if they send now and then.

        0 where that is not known: they send so much that it goes up at once, or so little that it does.
        """
        gathers = self._often and not (self.hurried or self._lifetime.draining)
        return max(0.0, self._post_due - now) if gathers else 0.0

    def post(self, sender: Sender, count: int, frames: bytes) -> None:
        """Take ``count`` messages of one client."""
        self.posts.append((sender, count, frames))
        self.posts_size += len(frames)

    def ask(self, identity: int, address: str, request: bytes) -> None:
        """Take a client's request. It keeps its place behind what the client has said before."""
        self.requests.add(identity, len(request), partial(self._post_request, identity, address, request))

    def ask_for_more(self, identity: int) -> None:
        """Ask for the next part of the past for a client that has read the part before."""
        self.requests.add(identity, MORE_SIZE, partial(self.say, Up.MORE, identity))

    def _post_request(self, identity: int, address: str, request: bytes) -> None:
        self.posts.append(((identity, address), REQUEST, request))
        self.posts_size += len(request)

    def work(self, now: float) -> None:
        """Post what clients sent, at once when the last posts went up a while ago; then say who has left."""
        if not (self.posts or self.left or self.said_all):
            if self._lifetime.draining and not self._drained:
                self._drained = True
                self.say(Up.DRAINED)
            return
        gathering = now < self._post_due and self.posts_size < ITEM_SIZE
        if gathering and not self._lifetime.draining and not self.hurried:
            return
        self._post_due = next_post(now, self.gather)
        self._often = now < self._often_until and self.posts_size < LITTLE
        self._often_until = now + 2 * self.gather
        self.counters.messages_in += sum(count for _, count, _ in self.posts)
        self.counters.from_members += sum(count for sender, count, _ in self.posts if type(sender) is int)
        try:
            if self.speakers:
                self.link.send(Up.SPEAKERS, self.speakers)
                self.speakers = 0
            self._send_posts()
            while self.said_all:
                silent = self.said_all[:LEAVERS_PER_ITEM]
                del self.said_all[:LEAVERS_PER_ITEM]
                self.link.send(Up.SAID_ALL, silent, len(silent) * IDENTITY_COST)
            while self.left:
                leavers = self.left[:LEAVERS_PER_ITEM]
                del self.left[:LEAVERS_PER_ITEM]
                self.link.send(Up.LEFT, leavers, len(leavers) * LEAVER_COST)
        except OSError:
            self._lifetime.finished = True
        self.posts = []
        self.posts_size = 0

    def _send_posts(self) -> None:
        """Send what clients said, as much as fits into each item, and their requests where they belong."""
        runs: list[tuple[Sender | tuple[int, str], int, int]] = []
        parts: list[bytes] = []
        size = 0
        for sender, count, frames in self.posts:
            if runs and (count == REQUEST or size + len(frames) > BATCH_SIZE):
                self.link.send_frames(Up.POSTS, runs, b"".join(parts), len(runs) * HEAD_COST)
                runs, parts, size = [], [], 0
            if count == REQUEST:
                self.link.send(Up.ASK, (sender, frames), len(frames))
                continue
            runs.append((sender, count, len(frames)))
            parts.append(frames)
            size += len(frames) + HEAD_COST
        if runs:
            frames = parts[0] if len(parts) == 1 else b"".join(parts)
            self.link.send_frames(Up.POSTS, runs, frames, len(runs) * HEAD_COST)

    def pass_on(self, number: int, question: bytes) -> None:
        """Send an HTTP request that the supervisor is to answer."""
        try:
            self.link.send_frames(Up.HTTP, number, question)
        except OSError:  # the supervisor is gone
            self._lifetime.finished = True

    def say(self, kind: Up, payload: Any = None, size: int = 0) -> None:
        """Send one small item, in order, or one of about ``size`` bytes."""
        try:
            self.link.send(kind, payload, size)
        except OSError:  # the supervisor is gone
            self._lifetime.finished = True

    def beat(self, beat: Beat) -> None:
        """Send a beat, past all that waits; none while the pipe has no room."""
        if self.link.full:
            return
        try:
            self.link.send_now(Up.BEAT, encode_beat(beat))
        except OSError:
            self._lifetime.finished = True
