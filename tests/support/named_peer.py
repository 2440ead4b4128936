"""A small server for named clients, for tests of the client: threads, real sockets, all of the contract.

It numbers, keeps the last messages, knows the owner of a name by the token, and breaks on request. What
outlives one server (numbers, history, tokens) is a :class:`Hall`; a new one in the same hall is a restart.
"""

import socket
import threading
import uuid
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import msgspec

from mpchat.protocol.frames import FrameDecoder, Oversized, encode_frame

# Messages that a first join shows.
RECENT = 3
# Seconds since 1970 of message number 0; each has one more.
BEGINNING = 1_763_900_000.0


class Hall:
    """What a server remembers. ``kept`` is how many messages of a room it can still give."""

    def __init__(self, kept: int = 1000) -> None:
        self.kept = kept
        self.epoch = uuid.uuid4().hex
        self.history: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self.count: defaultdict[str, int] = defaultdict(int)
        self.tokens: dict[str, str] = {}

    def renumber(self) -> None:
        """Forget all messages and begin a new epoch."""
        self.epoch = uuid.uuid4().hex
        self.history.clear()
        self.count.clear()

    def add(self, room: str, text: str, sender: str | None) -> dict[str, Any]:
        """Number a message and keep it."""
        self.count[room] += 1
        seq = self.count[room]
        message = {"message": text, "room": room, "seq": seq, "at": BEGINNING + seq}
        if sender is not None:
            message["from"] = sender
        self.history[room] = [*self.history[room], message][-self.kept :]
        return message


class Guest:
    """One connection; plain as long as ``name`` is empty."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.name = ""
        self.room = ""


class NamedServer:
    """Serves from construction to ``stop``. ``refuse`` is a code that every join is answered with while set.

    ``twice`` sends each numbered message a second time; ``skip`` is a set of numbers that are sent to nobody.
    """

    def __init__(self, hall: Hall | None = None, port: int = 0) -> None:
        self.hall = hall or Hall()
        self.refuse = ""
        # The same for the joins of some rooms.
        self.refuse_rooms: dict[str, str] = {}
        # Called with each join; returns a code that it is refused with, or nothing.
        self.judge: Callable[[dict[str, Any]], str] = lambda join: ""
        # More facts of each welcome, and the name of a join that has a token and no name.
        self.facts: dict[str, Any] = {}
        self.subject = ""
        self.twice = False
        self.skip: set[int] = set()
        self.joins: list[dict[str, Any]] = []
        # Requests, in the order they came, other than joins.
        self.received: list[dict[str, Any]] = []
        # Called, if set, with each request before it is answered; true: leave it unanswered.
        self.ignore: Callable[[dict[str, Any]], bool] = lambda request: False
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.RLock()
        self._guests: list[Guest] = []
        self._threads: list[threading.Thread] = []
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()

    def members(self, room: str = "lobby") -> list[str]:
        """Return the names in ``room``, sorted."""
        with self._lock:
            return sorted(each.name for each in self._guests if each.name and each.room == room)

    def say(self, text: str, sender: str | None = "bob", room: str = "lobby") -> None:
        """Say something as somebody who is not here, or as the operator (None)."""
        with self._lock:
            self._publish(self.hall.add(room, text, sender))

    def send(self, answer: dict[str, Any]) -> None:
        """Send an object to everybody with a name."""
        with self._lock:
            for guest in self._guests:
                if guest.name:
                    self._send(guest, answer)

    def drop(self) -> None:
        """Lose all connections, half-way through a frame."""
        with self._lock:
            for guest in self._guests:
                with suppress(OSError):
                    guest.sock.sendall(b"\x00\x05{")
                _shut(guest.sock)

    def stop(self) -> None:
        """Go away: no listener, no connection, no thread stays."""
        _shut(self._listener)
        self._acceptor.join()
        self._listener.close()
        with self._lock:
            for guest in self._guests:
                _shut(guest.sock)
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            guest = Guest(sock)
            with self._lock:
                self._guests.append(guest)
            thread = threading.Thread(target=self._serve, args=(guest,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, guest: Guest) -> None:
        decoder = FrameDecoder()
        with guest.sock:
            try:
                while data := guest.sock.recv(65_536):
                    for payload in decoder.feed(data):
                        assert not isinstance(payload, Oversized)
                        with self._lock:
                            self._handle(guest, msgspec.json.decode(payload))
            except OSError:
                pass
            finally:
                with self._lock:
                    self._guests.remove(guest)
                    self._announce_left(guest, "closed")

    def _handle(self, guest: Guest, request: dict[str, Any]) -> None:
        if "join" in request:
            self.joins.append(request["join"])
            if not self.ignore(request):
                self._join(guest, request["join"])
            return
        self.received.append(request)
        if self.ignore(request):
            return
        match request:
            case {"message": text, "to": to}:
                self._tell(guest, text, to)
            case {"message": text}:
                speaker = (guest.room, text, guest.name) if guest.name else ("lobby", text, "127.0.0.1:5")
                self._publish(self.hall.add(*speaker))
            case {"ping": value}:
                self._send(guest, {"pong": value})
            case _ if guest.name:
                self._answer_about_rooms(guest, request)
            case _:
                self._refuse(guest, "not_joined", "join a room first")

    def _answer_about_rooms(self, guest: Guest, request: dict[str, Any]) -> None:
        match request:
            case {"kick": _} | {"ban": _} | {"unban": _} | {"mute": _} | {"unmute": _} | {"close": _}:
                self._moderate(guest, request)
            case {"history": asked}:
                self._past(guest, **asked)
            case {"who": who}:
                self._who(guest, who.get("room", guest.room))
            case {"rooms": _}:
                rooms = sorted({each.room for each in self._guests if each.name})
                sizes = [{"room": room, "members": len(self.members(room))} for room in rooms]
                self._send(guest, {"rooms": {"rooms": sizes, "count": len(sizes), "next": None}})

    def _moderate(self, guest: Guest, request: dict[str, Any]) -> None:
        ((action, what),) = request.items()
        if self.facts.get("role") == "operator":
            target = what.get("room") or what.get("name")
            self._send(guest, {"moderated": {"action": action, "target": target, "count": len(target)}})
        else:
            self._refuse(guest, "not_allowed", "only an operator may do that")

    def _join(self, guest: Guest, join: dict[str, Any]) -> None:
        name, room = join.get("name", guest.name or self.subject), join.get("room", guest.room or "lobby")
        token = self.hall.tokens.get(name)
        holder = next((each for each in self._guests if each.name == name and each is not guest), None)
        if code := self.refuse or self.refuse_rooms.get(room) or self.judge(join):
            self._refuse(guest, code, f"no {code} today")
            return
        if holder is not None and join.get("token") != token:
            self._refuse(guest, "name_taken", f"{name} is taken")
            return
        if holder is not None:
            holder.name = ""
            _shut(holder.sock)
        if guest.name:
            self._announce_left(guest, "moved")
        guest.name, guest.room = name, room
        self.hall.tokens.setdefault(name, uuid.uuid4().hex)
        members = len(self.members(room))
        history, recovered, lost = self._since(room, join.get("after"), join.get("epoch"))
        welcome = {
            "name": name,
            "room": room,
            "seq": self.hall.count[room],
            "epoch": self.hall.epoch,
            "members": members,
            "recovered": recovered,
            "lost": lost,
            "token": self.hall.tokens[name],
            **self.facts,
        }
        self._send(guest, {"welcome": welcome})
        for message in history:
            self._send(guest, message)
        joined = {"room": room, "names": [name], "count": 1, "members": members}
        self._to_room(room, {"joined": joined}, but=guest)

    def _since(
        self, room: str, after: int | None, epoch: str | None
    ) -> tuple[list[dict[str, Any]], bool, list[int | None] | None]:
        kept = self.hall.history[room]
        if after is None:
            return kept[-RECENT:], False, None
        if epoch != self.hall.epoch:
            return kept[-RECENT:], False, [after + 1, None]
        missed = [each for each in kept if each["seq"] > after]
        first = self.hall.count[room] - len(missed) + 1
        lost: list[int | None] | None = [after + 1, first - 1] if first > after + 1 else None
        return missed, lost is None, lost

    def _tell(self, guest: Guest, text: str, to: str) -> None:
        private = {"message": text, "from": guest.name, "to": to, "at": BEGINNING}
        everybody = [each for each in self._guests if each.name in (guest.name, to)]
        if not any(each.name == to for each in everybody):
            self._refuse(guest, "no_such_name", f"there is no {to}")
            return
        for each in everybody:
            self._send(each, private)

    def _who(self, guest: Guest, room: str) -> None:
        names = self.members(room)
        who = {"room": room, "names": names[:100], "members": len(names), "next": None}
        self._send(guest, {"who": who})

    def _past(self, guest: Guest, limit: int, before: int = 2**63) -> None:
        if not 1 <= limit <= 100:
            self._refuse(guest, "bad_request", f"not understood: limit {limit}")
            return
        older = [each for each in self.hall.history[guest.room] if each["seq"] < before]
        page = [{key: value for key, value in each.items() if key != "room"} for each in older[-limit:]]
        following = page[0]["seq"] if len(older) > limit else None
        self._send(guest, {"history": {"room": guest.room, "messages": page, "next": following}})

    def _publish(self, message: dict[str, Any]) -> None:
        if message["seq"] in self.skip:
            return
        for _ in range(1 + self.twice):
            self._to_room(message["room"], message)
        for guest in self._guests:
            if not guest.name and message["room"] == "lobby":
                self._send(guest, {"message": message["message"]})

    def _announce_left(self, guest: Guest, reason: str) -> None:
        if not guest.name:
            return
        left = {"room": guest.room, "names": [guest.name], "count": 1, "reason": reason}
        guest.name = ""
        self._to_room(guest.room, {"left": {**left, "members": len(self.members(guest.room))}})

    def _refuse(self, guest: Guest, code: str, text: str) -> None:
        more = {"proofs": ["password", "jwt"]} if code == "auth_required" else {}
        self._send(guest, {"error": {"code": code, "text": text, **more}})

    def _to_room(self, room: str, answer: dict[str, Any], *, but: Guest | None = None) -> None:
        for guest in self._guests:
            if guest.name and guest.room == room and guest is not but:
                self._send(guest, answer)

    def _send(self, guest: Guest, answer: dict[str, Any]) -> None:
        with suppress(OSError):  # its own thread will say so
            guest.sock.sendall(encode_frame(msgspec.json.encode(answer)))


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
