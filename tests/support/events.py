"""Events of the webhook, as the hub tells them: what was said, and which member entered or left."""

from mpchat.hub.effects import Presence
from mpchat.hub.history import Run
from mpchat.protocol.messages import message_frame


def said(*texts: str, room: str = "lobby", sender: str = "alice", seq: int = 1) -> Run:
    """Return a run of messages."""
    return Run(room, seq, len(texts), 1.5, sender, b"".join(map(message_frame, texts)))


def entered(name: str, room: str = "lobby", members: int = 1) -> Presence:
    """Return what is told of a member that has entered."""
    return Presence(room, name, members)
