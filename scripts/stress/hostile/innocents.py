"""Innocent clients, which measure their own round trips and how long it takes them to sign in."""

import json
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from typing import Any

from scripts.common.frames import HEADER, split_frames
from scripts.common.latency import Latency
from scripts.stress.clients import ClientLoop, Connection, Plan, Report
from scripts.stress.hostile.kinds import BIG, DEAF, REGISTERED, payload

# Messages of the room with a long past: what the server keeps of a room by default.
PAST = 1000
# Messages of the past that are sent at once; further ones go out when these have come back.
PAST_STEP = 50
# Seconds from the end of a round trip to the next.
TRIP_EVERY = 0.01
# Seconds: a trip that is under way for so long when its phase ends counts. The least delay that is judged.
LONG = 0.05
# The innocent client that signs in with a token; the registered name signs in with its password.
WITH_TOKEN = "밥"
# From where both sign in: an address that no hostile client has.
HOME = "127.200.0.1"
# Seconds from one sign-in to the next, and until a client that was put off tries again.
SIGN_IN_EVERY, TRY_AGAIN = 0.2, 0.2


@dataclass(frozen=True, kw_only=True)
class InnocentsPlan(Plan):
    """The work of the innocent clients. Without tokens the server asks for no proof."""

    tokens: dict[str, str] = field(default_factory=dict, repr=False)
    password: str = field(default="", repr=False)


def names(count: int) -> list[str]:
    """Return the names of so many innocent clients and of those that help them, each of which has a token."""
    return ["filler", DEAF, WITH_TOKEN, *(f"innocent{number}" for number in range(count))]


class Innocent(Connection):
    """A client that sends a message, waits until it has come back, and sends the next."""

    def __init__(self, name: str, room: str, **proof: str) -> None:
        """Prepare to join a room."""
        super().__init__(name)
        self.room = room
        self.trips = 0
        self.sent_at = 0
        self.next_at = 0.0
        self.waits = False
        self.welcome = False
        self.join = payload(join={"name": name, "room": room, **proof})
        self.out = self.join


class Guest(Innocent):
    """A client that signs in on a new connection, and leaves."""

    def __init__(self, kind: str, name: str, proof: str) -> None:
        """Prepare to show a proof of this kind."""
        super().__init__(name, "hall", **{kind: proof})
        self.kind = kind
        self.sent_at = time.monotonic_ns()
        self.again_at = 0.0  # 0: it waits for an answer
        self.sock.bind((HOME, 0))


class Innocents(ClientLoop[Innocent]):
    """Innocent clients in a room of their own; first, one of them fills another room with a long past.

    Where the server checks proofs, two more sign in and leave, again and again.
    """

    def __init__(self, plan: InnocentsPlan, pipe: "Pipe[Any, Any]") -> None:
        """Prepare to connect."""
        super().__init__(plan, pipe)
        self.plan = plan
        self._guests: dict[str, Guest] = {}
        self._next_guest = {"password": 0.0, "jwt": 0.0} if plan.tokens else {}
        self._signed_in: set[str] = set()
        self._filler: Innocent | None = None
        self._heard = 0

    def turn(self, now: float) -> None:
        """Connect, fill the big room, and measure."""
        if self._filler is None:
            self._filler = self._innocent("filler", BIG)
            for each in (self._filler, self._innocent(DEAF, BIG)):
                self.connect(each)
            for number in range(self.plan.connections):
                self.connect(self._innocent(f"innocent{number}", "quiet"))
        self._sign_in(now)
        if not self.acting:
            return
        for each in list(self.connections):
            if each.room == "quiet" and not each.waits and now >= each.next_at:
                each.trips += 1
                each.waits = True
                each.sent_at = time.monotonic_ns()
                self.write(each, payload(message=f"{each.name} {each.trips}"))

    def _sign_in(self, now: float) -> None:
        """Let guests come, and try again."""
        for kind, at in self._next_guest.items():
            if kind not in self._guests and now >= at:
                proof = self.plan.password if kind == "password" else self.plan.tokens[WITH_TOKEN]
                guest = Guest(kind, REGISTERED if kind == "password" else WITH_TOKEN, proof)
                self._guests[kind] = guest
                self.connect(guest)
        for guest in list(self._guests.values()):
            if 0 < guest.again_at <= now:
                guest.again_at = 0.0
                self.write(guest, guest.join)

    def received(self, connection: Innocent, data: bytes) -> None:
        """Look for the own message."""
        frames, connection.carry = split_frames(connection.carry + data)
        for frame in frames:
            said = json.loads(frame[HEADER:])
            if isinstance(connection, Guest):
                self._answered(connection, said)
            elif "welcome" in said:
                connection.welcome = True
                self._begin(connection)
            elif said.get("message") == f"{connection.name} {connection.trips}" and connection.waits:
                self._came_back(connection)
            elif connection is self._filler and said.get("from") == "filler":
                self._heard += 1
                self._fill()

    def _innocent(self, name: str, room: str) -> Innocent:
        token = self.plan.tokens.get(name)
        return Innocent(name, room, jwt=token) if token else Innocent(name, room)

    def _answered(self, guest: Guest, said: dict[str, Any]) -> None:
        if guest.closed:
            return
        if "welcome" in said:
            self._note_sign_in(guest)
            self._signed_in.add(guest.kind)
            del self._guests[guest.kind]
            self._next_guest[guest.kind] = time.monotonic() + SIGN_IN_EVERY
            self.close(guest)
        elif "error" in said:
            self.counts[f"put off, {guest.kind}: {said['error']['code']}"] += 1
            guest.again_at = time.monotonic() + TRY_AGAIN

    def _note_sign_in(self, guest: Guest) -> None:
        if self.phase:
            latency = self.latency.setdefault(f"{self.phase}: {guest.kind}", Latency())
            latency.record(time.monotonic_ns() - guest.sent_at)

    def _begin(self, connection: Innocent) -> None:
        if connection.name == DEAF:
            connection.reading = False
            self.watch(connection)
        elif connection is self._filler:
            self._fill()

    def _fill(self) -> None:
        assert self._filler is not None
        if self._heard % PAST_STEP == 0 and self._heard < PAST:
            self.write(self._filler, payload(message="past" * 25) * PAST_STEP)

    def _came_back(self, connection: Innocent) -> None:
        connection.waits = False
        took = time.monotonic_ns() - connection.sent_at
        connection.next_at = time.monotonic() + TRIP_EVERY
        self.counts["deliveries"] += 1
        self._note(took)

    def command(self, verb: str, *args: Any) -> None:
        """Obey the parent. A trip that is still under way when its phase ends has taken at least so long."""
        if verb == "phase":
            self._note_waiting()
        super().command(verb, *args)

    def _note_waiting(self) -> None:
        now = time.monotonic_ns()
        for each in self.connections:
            if each.waits and now - each.sent_at > LONG * 1e9:
                self._note(now - each.sent_at)
        for guest in self._guests.values():
            if now - guest.sent_at > LONG * 1e9:
                self._note_sign_in(guest)

    def _note(self, took: int) -> None:
        """Record a trip of ``took`` nanoseconds, and those that the client would have begun meanwhile.

        A client that waits asks no more. Without these a stall of seconds would be one trip among hundreds.
        """
        if not self.phase:
            return
        latency = self.latency.setdefault(self.phase, Latency())
        for rest in range(took, 0, -int(TRIP_EVERY * 1e9)):
            latency.record(rest)

    def ended(self, connection: Innocent, why: str) -> None:
        """Note an innocent client that was cut off; the deaf one is expected to be."""
        self.close(connection)
        if isinstance(connection, Guest):
            self._guests.pop(connection.kind, None)
        if connection.name != DEAF:
            self.died.append((connection.address, f"{connection.name}: {why}"))

    def joined(self) -> int:
        """Return how many measure and are let in, once the past is there and each guest has signed in."""
        ready = sum(each.welcome for each in self.connections if each.room == "quiet")
        return ready if self._heard >= PAST and self._signed_in == set(self._next_guest) else 0

    def quiet(self, now: float) -> bool:
        """Say whether no message is under way."""
        return not any(each.waits for each in self.connections)

    def report(self) -> Report:
        """Return what was measured."""
        return Report(findings=self.findings, counts=self.counts, latency=self.latency)
