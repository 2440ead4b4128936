"""Barred clients: those of a closed chat that have not shown who they are.

The setting ``auth`` closes a chat. Such a client hears nothing: it reads no stream. And it says nothing: each
of its messages is answered with the error ``auth_required``. The hub lets it in when it has joined.
"""

from mpchat.config import Config
from mpchat.protocol.messages import counted_error_frame
from mpchat.protocol.session import MOST_TIMES, REQUEST, Session
from mpchat.protocol.sign_in import auth_required_frame
from mpchat.worker.connection import Connection


class Barred:
    """The barred clients of a worker."""

    def __init__(self, config: Config) -> None:
        """Begin with none."""
        self.closed = config.auth == "closed"
        # What each of them is told.
        self.told = auth_required_frame(config.proofs) if self.closed else b""
        self._timeout = config.auth_timeout
        # Since when each has been here (seconds, monotonic), the longest first.
        self._since: dict[Connection, float] = {}

    def __len__(self) -> int:
        return len(self._since)

    def take(self, connection: Connection, now: float) -> None:
        """Bar a client that has come, if the chat is closed."""
        if self.closed:
            connection.barred = True
            if isinstance(connection.dialect, Session):
                connection.dialect.not_joined = self.told
            self._since[connection] = now

    def let_in(self, connection: Connection) -> None:
        """Bar a client no longer."""
        connection.barred = False
        self.forget(connection)

    def forget(self, connection: Connection) -> None:
        """Forget a client that has ended or left, or that has come as a browser for the page."""
        self._since.pop(connection, None)

    def refuse_posts(self, posts: list[tuple[int, bytes]]) -> tuple[bytes, int]:
        """Take the messages out of ``posts``; requests stay.

        Return the frames that answer them, and how many bytes they would have if each were answered.
        """
        count = sum(each for each, _ in posts if each != REQUEST)
        posts[:] = [each for each in posts if each[0] == REQUEST]
        frames, left = [], count
        while left > 0:
            times = min(left, MOST_TIMES)
            frames.append(counted_error_frame(self.told, times))
            left -= times
        return b"".join(frames), count * len(self.told)

    def overdue(self, now: float) -> list[Connection]:
        """Return those that have shown nothing for ``auth_timeout``."""
        return [each for each, since in self._since.items() if now - since > self._timeout]
