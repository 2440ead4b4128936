"""Target: what the settings say of the webhook: where to send, from which rooms, and how to sign."""

from dataclasses import dataclass, field

from mpchat import hook_url
from mpchat.auth.grant import Grant
from mpchat.auth.keys import read_secret, without_newline
from mpchat.config import Config
from mpchat.hook_url import HookUrl


@dataclass(frozen=True)
class Target:
    """Where events go."""

    url: HookUrl
    # Patterns of rooms, in which * stands for any characters; None: all rooms.
    rooms: tuple[str, ...] | None = None
    # What deliveries are signed with; empty: they are not signed.
    secret: bytes = field(default=b"", repr=False)
    # Bytes of memory that events may take which wait.
    queue: int = 16 << 20

    @property
    def shown(self) -> str:
        """The URL for people and logs, as text: a log in JSON would write its parts."""
        return str(self.url)

    def hears(self, room: str) -> bool:
        """Tell whether events of a room are sent. Takes some microseconds."""
        return Grant("", rooms=self.rooms).allows(room)


def target_of(config: Config) -> Target | None:
    """Return what the settings say; None: there is no webhook. Reads the file with the secret.

    Raise :class:`~mpchat.errors.StartError` when the secret cannot be read.
    """
    if not config.hook:
        return None
    secret = b""
    if config.hook_secret:
        secret = without_newline(read_secret("hook_secret", config.hook_secret))
    rooms = None if "*" in config.hook_rooms else config.hook_rooms
    return Target(hook_url.parse(config.hook), rooms, secret, config.hook_queue)
