"""Strangers among the members: impostors that try a member's name, and heirs that wait for a free one."""

import time
from dataclasses import dataclass
from typing import Any

from scripts.stress.members.member import Member, MemberConnection, RequestLoop

# Heirs of one process at a time, and seconds between two tries of an heir.
MOST_HEIRS = 3
TRY_EVERY = 0.5


@dataclass(eq=False)
class Heir:
    """A client that joins as a guest, leaves, and tries the guest's name again until it is free."""

    name: str
    next: float = 0.0
    guest_left: bool = False
    connection: MemberConnection | None = None


class Strangers:
    """The strangers of one process."""

    def __init__(self, loop: RequestLoop) -> None:
        """Open connections on ``loop``."""
        self._loop = loop
        self._heirs: list[Heir] = []
        self._guests = 0

    def try_name(self, member: Member) -> None:
        """Let an impostor try the name of ``member``."""
        loop = self._loop
        impostor = loop.open("impostor")
        if impostor is None:
            return
        impostor.asked_name = member.name
        tricks: list[dict[str, Any]] = [
            {},
            {"token": "x" * 16},
            {"token": ""},
            {"after": 0, "epoch": member.epoch, "room": member.room},
        ]
        name = member.name.swapcase() if loop.random.random() < 0.5 else member.name
        loop.ask_to_join(impostor, {"name": name, **loop.random.choice(tricks)})

    def expect_heir(self) -> None:
        """Let a guest come and leave, and an heir wait for its name."""
        if len(self._heirs) < MOST_HEIRS:
            self._guests += 1
            self._heirs.append(Heir(f"guest{self._loop.plan.number}.{self._guests}"))

    def look_after(self, now: float) -> None:
        """Let heirs try again."""
        for heir in self._heirs:
            if heir.connection is None and now >= heir.next:
                heir.connection = self._loop.open("heir")
                if heir.connection is not None:
                    heir.connection.asked_name = heir.name
                    self._loop.ask_to_join(heir.connection, {"name": heir.name})
            elif heir.connection is not None and heir.connection.closed:
                heir.connection, heir.next = None, now + TRY_EVERY

    def dismiss(self) -> None:
        """Let all heirs leave."""
        for heir in self._heirs:
            if heir.connection is not None:
                self._loop.close(heir.connection)
        self._heirs = []

    def answered(self, connection: MemberConnection, now: float) -> None:
        """Check the answer to a stranger's join."""
        loop, name = self._loop, connection.asked_name
        code, connection.talk.refusal = connection.talk.refusal, ""
        connection.shown = connection.talk.welcomes
        if not code:
            loop.counts["strangers let in"] += 1
            loop.names.welcomed(name, connection.number, connection.name, now, owner=False)
        elif code == "name_taken":
            loop.counts["name_taken"] += 1
            loop.names.refused(name, connection.name, connection.asked_at)
        else:
            loop.findings.note("strange", f"{connection.name} was refused: {code}")
        heir = next((each for each in self._heirs if each.connection is connection), None)
        if heir is not None:
            self._heir_answered(heir, let_in=not code)
        loop.close(connection, reset=True)  # an orderly close would release the name
        if not code:
            loop.names.gone(name, connection.number, now)

    def _heir_answered(self, heir: Heir, let_in: bool) -> None:
        heir.connection = None
        heir.next = time.monotonic() + TRY_EVERY
        if let_in and heir.guest_left:
            self._loop.counts["inherited"] += 1
            self._heirs.remove(heir)
        heir.guest_left = heir.guest_left or let_in
