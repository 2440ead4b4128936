"""Limits: settings that the hub keeps to. Pure."""

from typing import NamedTuple


class Kept(NamedTuple):
    """How much history a room keeps: messages, bytes of memory, and seconds (0: of any age)."""

    messages: int
    size: int
    age: float


class Limits(NamedTuple):
    """How many rooms there may be, how many of one address, and members in one room (0: any number).

    For how many seconds a name is held; how much history is kept; how many bytes of a stream a client may be
    behind; and how many may wait for all members in transit together. Which clients must prove their names
    (the setting ``auth``), and the kinds of proof that the server takes.
    """

    rooms: int
    rooms_per_address: int
    members: int
    name_hold: float
    kept: Kept
    lag: int
    answers: int
    auth: str = "open"
    proofs: tuple[str, ...] = ()

    @property
    def closed(self) -> bool:
        """True when clients must prove who they are to hear and to say anything."""
        return self.auth == "closed"
