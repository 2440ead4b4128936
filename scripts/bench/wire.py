"""What each server's wire looks like to a client: bytes only, no sockets, no clocks.

No client library: it knows one channel (``in_room`` gives another one), the fixed sizes and the few commands
that the bench needs. The rule it keeps: for one size of text, the number of a delivery says how many bytes it
has on its wire, so that counting bytes counts messages. On a wire that gathers, the bytes in frames do.

Every text begins with a stamp: its sender, its number in that sender's order, and its time (ns, monotonic).
"""

import json
from bisect import bisect_right

from scripts.bench.websocket import (
    BINARY,
    TEXT,
    Unwrapper,
    client_frame,
    client_head,
    handshake,
    payload_of_one,
    server_head,
)

# A stamp is sender (00 to 99) and number, then nanoseconds; the fill after it makes the size.
NUMBER = b"%02d %010d "
TIME = b"%018d "
STAMP = NUMBER + TIME
# Bytes of a stamp: the shortest text that the bench can send.
STAMP_SIZE = len(STAMP % (0, 0, 0))
# The sender in the stamp of the go: the first message, which says that all clients are there.
GO_SENDER = 99
FILL = b"x"

CHANNEL = b"chat"


class Wire:
    """One protocol."""

    name = ""
    # True where a sender is a client like all others and receives its own messages too.
    sender_receives = False
    # True where a client may receive other messages before the go: its bytes are counted from the go on.
    talks = False
    # Bytes that the server may send between two deliveries on its own, a whole number of times.
    noise = b""
    # The request for a WebSocket, which a client sends before it knocks; empty: it knocks at once.
    handshake = b""
    # True where a WebSocket frame holds several deliveries or a part of one: only payloads are counted then.
    gathers = False
    # The first bytes of a client, its request to be served, and of a connection that only sends.
    knock = b""
    sender_knock = b""
    # The end of the answer to each of them.
    answer_end = b""
    sender_answer_end = b""
    # What stands before a text on its way to the server and to a client, with a place for its size.
    publication_head = b""
    delivery_head = b""

    def in_room(self, _room: int) -> "Wire":
        """Return the wire of the channel with this number."""
        return self

    def knock_of(self, _client: int) -> bytes:
        """Return the knock of the client with this number."""
        return self.knock

    def served(self, answer: bytes) -> bool:
        """Say whether ``answer``, all bytes since the knock, means that the client is served."""
        return answer.endswith(self.answer_end)

    def sender_served(self, answer: bytes) -> bool:
        """Say the same of a connection that only sends."""
        return answer.endswith(self.sender_answer_end)

    def publication(self, size: int) -> tuple[bytes, bytes]:
        """Return what stands before and after a text of ``size`` bytes on its way to the server."""
        return self.publication_head % size, b"\r\n"

    def delivery(self, size: int) -> tuple[bytes, bytes]:
        """Return what stands before and after a text of ``size`` bytes on its way to a client."""
        return self.delivery_head % size, b"\r\n"

    def bytes_of(self, size: int, messages: int) -> int:
        """Return the bytes that the first ``messages`` deliveries of texts of ``size`` bytes take."""
        return messages * (sum(map(len, self.delivery(size))) + size)

    def messages_in(self, size: int, got: int) -> tuple[int, int]:
        """Return how many of these deliveries ``got`` bytes hold, and how many bytes are left over."""
        return divmod(got, self.bytes_of(size, 1))


class FrameWire(Wire):
    """mpchat's plain clients: ``{"message": "…"}`` behind two bytes of length."""

    name = "frames"
    sender_receives = True
    # An empty frame: mpchat answers this client alone, with an error; other servers echo it to this client.
    knock = sender_knock = b"\0\0"

    def served(self, answer: bytes) -> bool:
        """Say whether one whole frame has come, whatever it says."""
        return len(answer) >= 2 and len(answer) == 2 + int.from_bytes(answer[:2], "big")

    sender_served = served

    def publication(self, size: int) -> tuple[bytes, bytes]:
        """Return the rest of a frame."""
        before, after = b'{"message":"', b'"}'
        return (len(before) + size + len(after)).to_bytes(2, "big") + before, after

    delivery = publication


class MemberWire(FrameWire):
    """mpchat's named clients: they join a room, and deliveries have the sender, the room and a number.

    The number grows, and so do deliveries by a byte now and then. The go is number 1 of its room.
    """

    name = "members"
    talks = True

    def __init__(self, room: int = 0) -> None:
        """Speak in the room with this number."""
        self._room = room

    def in_room(self, room: int) -> "MemberWire":
        """Return the wire of another room."""
        return MemberWire(room)

    def knock_of(self, client: int) -> bytes:
        """Return the request to join the room under a name. All names are equally long."""
        join = b'{"join":{"name":"%s","room":"%s"}}' % (self.member(client), self.room)
        return len(join).to_bytes(2, "big") + join

    @staticmethod
    def member(client: int) -> bytes:
        """Return the name of a client."""
        return b"m%05d" % client

    @property
    def room(self) -> bytes:
        """The name of the room. All are equally long."""
        return b"r%05d" % self._room

    def served(self, answer: bytes) -> bool:
        """Say whether the welcome has come, whole, whatever stands before and after it."""
        position = 0
        while (start := position + 2) <= len(answer):
            position = start + int.from_bytes(answer[position:start], "big")
            if answer.startswith(b'{"welcome":', start):
                return position <= len(answer)
        return False

    sender_served = served

    def delivery(self, size: int) -> tuple[bytes, bytes]:
        """Return the rest of a frame with a number of one digit; its length and its time stand for any."""
        before, after = b'{"message":"', b'","from":"%s","room":"%s","seq":1,"at":1700000000.000}'
        after %= self.member(0), self.room
        return (len(before) + size + len(after)).to_bytes(2, "big") + before, after

    def bytes_of(self, size: int, messages: int) -> int:
        """Return the bytes: one more for each from number 10 on, for each from number 100 on, and so on."""
        longer, least = 0, 10
        while least <= messages:
            longer += messages - least + 1
            least *= 10
        return super().bytes_of(size, messages) + longer

    def messages_in(self, size: int, got: int) -> tuple[int, int]:
        """Return the inverse of :meth:`bytes_of`."""
        most = range(got // self.bytes_of(size, 1) + 1)
        messages = bisect_right(most, got, key=lambda each: self.bytes_of(size, each)) - 1
        return messages, got - self.bytes_of(size, messages)


class RedisWire(Wire):
    """RESP2: a subscribed connection cannot publish, so senders have connections of their own."""

    name = "redis"
    answer_end = b":1\r\n"
    sender_knock = b"*1\r\n$4\r\nPING\r\n"
    sender_answer_end = b"+PONG\r\n"

    def __init__(self, channel: bytes = CHANNEL) -> None:
        """Speak on this channel."""
        named = b"$%d\r\n%s\r\n" % (len(channel), channel)
        self.knock = b"*2\r\n$9\r\nSUBSCRIBE\r\n" + named
        self.publication_head = b"*3\r\n$7\r\nPUBLISH\r\n" + named + b"$%d\r\n"
        self.delivery_head = b"*3\r\n$7\r\nmessage\r\n" + named + b"$%d\r\n"

    def in_room(self, room: int) -> "RedisWire":
        """Return the wire of another channel."""
        return type(self)(b"r%05d" % room)


class RedisMemberWire(RedisWire):
    """RESP3: a subscribed connection may publish, so members of many channels talk as mpchat's do."""

    name = "redis-members"
    sender_receives = True

    def __init__(self, channel: bytes = CHANNEL) -> None:
        """Speak on this channel."""
        super().__init__(channel)
        # No answers to PUBLISH: only pushes come, and they are counted.
        quiet = b"*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$3\r\nOFF\r\n"
        self.knock = b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n" + self.knock + quiet
        self.delivery_head = b">" + self.delivery_head[1:]  # a push has a type of its own in RESP3

    def served(self, answer: bytes) -> bool:
        """Say whether the push that confirms the subscription has come."""
        return b"subscribe" in answer and answer.endswith(self.answer_end)

    sender_served = served


class NatsWire(Wire):
    """NATS core: text commands; the server pings each client once, two seconds after it connects."""

    name = "nats"
    noise = b"PING\r\n"
    _hello = b"CONNECT %s\r\n" % json.dumps({"verbose": False, "pedantic": False, "echo": False}).encode()
    knock = _hello + b"SUB %s 1\r\nPING\r\n" % CHANNEL
    sender_knock = _hello + b"PING\r\n"
    answer_end = sender_answer_end = b"PONG\r\n"
    publication_head = b"PUB " + CHANNEL + b" %d\r\n"
    delivery_head = b"MSG " + CHANNEL + b" 1 %d\r\n"


class MqttWire(Wire):
    """MQTT 3.1.1 at QoS 0, without keep-alive; a clean session with a name that the server chooses."""

    name = "mqtt"
    # CONNECT: protocol name and level, clean session, keep-alive 0 s, empty client name.
    sender_knock = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00"
    sender_answer_end = b"\x20\x02\x00\x00"
    # SUBSCRIBE, packet 1, one filter at QoS 0.
    knock = sender_knock + b"\x82%c\x00\x01\x00%c%s\x00" % (5 + len(CHANNEL), len(CHANNEL), CHANNEL)
    answer_end = b"\x90\x03\x00\x01\x00"

    def publication(self, size: int) -> tuple[bytes, bytes]:
        """Return the rest of PUBLISH, which is the same both ways."""
        topic = len(CHANNEL).to_bytes(2, "big") + CHANNEL
        return b"\x30" + _mqtt_length(len(topic) + size) + topic, b""

    delivery = publication


class TextWire(Wire):
    """WebSocket servers that send each text to all, as it is. There is nothing to knock for."""

    name = "websocket"
    sender_receives = True
    handshake = handshake("/")
    # What is around a text within its message.
    _around = b"", b""

    def publication(self, size: int) -> tuple[bytes, bytes]:
        """Return the rest of a client's frame."""
        before, after = self._around
        return client_head(TEXT, len(before) + size + len(after)) + before, after

    def delivery(self, size: int) -> tuple[bytes, bytes]:
        """Return the rest of a server's frame."""
        before, after = self._around
        return server_head(TEXT, len(before) + size + len(after)) + before, after


class FrameWebSocketWire(TextWire):
    """mpchat's plain clients over WebSocket: the same JSON, and the same question that is refused."""

    name = "frames-websocket"
    handshake = handshake("/ws")
    knock = sender_knock = client_frame(TEXT, b"")
    _around = b'{"message":"', b'"}'

    def served(self, answer: bytes) -> bool:
        """Say whether one whole frame has come, whatever it says."""
        return payload_of_one(answer) is not None

    sender_served = served


class SocketIoWire(TextWire):
    """socket.io 4: events of Engine.IO 4 over WebSocket alone, in the namespace ``/``."""

    name = "socket.io"
    handshake = handshake("/socket.io/?EIO=4&transport=websocket")
    # Connect to the namespace.
    knock = sender_knock = client_frame(TEXT, b"40")
    _around = b'42["m","', b'"]'

    def served(self, answer: bytes) -> bool:
        """Say whether the server has opened the session (``0{…}``) and then the namespace (``40{…}``)."""
        begun = Unwrapper()
        return b"}40{" in begun.feed(answer) and begun.between_frames

    sender_served = served


class NatsWebSocketWire(NatsWire):
    """The same commands in binary frames; the server puts all that it has for a client into one frame."""

    name = "nats-websocket"
    gathers = True
    handshake = handshake("/")
    knock = client_frame(BINARY, NatsWire.knock)
    sender_knock = client_frame(BINARY, NatsWire.sender_knock)

    def publication(self, size: int) -> tuple[bytes, bytes]:
        """Return the command in a frame of its own."""
        before, after = super().publication(size)
        return client_head(BINARY, len(before) + size + len(after)) + before, after


def _mqtt_length(size: int) -> bytes:
    """Return MQTT's variable length: seven bits a byte, lowest first."""
    digits = bytearray()
    while size > 0x7F:
        digits.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes(digits) + bytes([size])


WIRES: dict[str, Wire] = {
    wire.name: wire
    for wire in (
        FrameWire(),
        MemberWire(),
        RedisWire(),
        RedisMemberWire(),
        NatsWire(),
        MqttWire(),
        TextWire(),
        FrameWebSocketWire(),
        SocketIoWire(),
        NatsWebSocketWire(),
    )
}
