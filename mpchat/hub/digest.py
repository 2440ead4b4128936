"""Digest: a number that is equal where the same entries have caused the same. Pure.

Hosts that share one log compare digests. The entries themselves are compared by the log's chain: the digest
is over what a state has made of them. It is the same in all processes and on all machines.
"""

from collections.abc import Iterable
from struct import Struct
from zlib import crc32

import msgspec

from mpchat.hub.effects import Effect, Enter, NoticeInRoom, Say, SayInRoom, Tell

# The numbers of a run of messages: room, first number, messages, bytes, time.
_RUN = Struct("<QQQQd").pack
# Messages and bytes for plain clients.
_SAID = Struct("<QQ").pack
_encode = msgspec.msgpack.Encoder().encode


class Reading(msgspec.Struct, frozen=True, array_like=True):
    """A digest at one moment, and totals of the state: so a state that differs silently shows as well.

    ``value`` has 64 bits. ``names`` are held. ``memory`` is in bytes, of all histories. ``messages`` were put
    in order since the start; ``sequence`` is the number of the last that plain clients got.
    """

    value: int
    members: int
    rooms: int
    names: int
    memory: int
    messages: int
    sequence: int


class Digest:
    """Takes in what each entry has caused."""

    __slots__ = ("numbers", "texts")

    def __init__(self, numbers: int = 0, texts: int = 0) -> None:
        """Begin, or go on from two checksums of 32 bits: over numbers, and over what is sent."""
        self.numbers = numbers
        self.texts = texts

    @property
    def value(self) -> int:
        """Both checksums as one number of 64 bits."""
        return self.numbers << 32 | self.texts

    def add(self, effects: Iterable[Effect]) -> None:
        """Take in the effects of one entry: half a microsecond for a run of messages.

        The texts of messages are left out, but for their length: they are those of the entry, and a checksum
        of 2 KB takes as long as all the rest.
        """
        for effect in effects:
            if isinstance(effect, SayInRoom):
                run = effect.run
                size = len(run.frames)
                self.numbers = crc32(_RUN(effect.room, run.seq, run.count, size, run.at), self.numbers)
                self.texts = crc32(run.sender.encode(), self.texts)
            elif isinstance(effect, Say):  # the same texts as in rooms
                self.numbers = crc32(_SAID(effect.messages, len(effect.frames)), self.numbers)
            else:
                self._add_other(effect)

    def _add_other(self, effect: tuple[object, ...]) -> None:
        kind = type(effect).__name__
        if isinstance(effect, Tell | Enter):  # the words of answers may differ between two releases
            self._add_numbers(kind, *effect[:-1])
        elif isinstance(effect, NoticeInRoom):
            self._add_numbers(kind, *effect[:-1])
            self.texts = crc32(effect.frames, self.texts)
        else:
            self._add_numbers(kind, *effect)

    def _add_numbers(self, *values: object) -> None:
        self.numbers = crc32(_encode(values), self.numbers)
