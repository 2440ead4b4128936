"""Client: a tunnel of a TLS process, and whose it is."""

import socket
import ssl

from mpchat.ipc.addresses import owner_of
from mpchat.tunnel import Tunnel


class Client(Tunnel):
    """One client, from its first bytes on."""

    __slots__ = ("began", "host", "identity", "in_line", "owner", "port")

    def __init__(
        self,
        identity: int,
        sock: socket.socket,
        address: tuple[str, int],
        context: ssl.SSLContext,
        now: float,
    ) -> None:
        """Begin with a client that has not shaken hands; ``now`` is monotonic, in seconds."""
        super().__init__(sock, context)
        self.identity = identity
        self.host, self.port = address
        # What counts as one address; kept, for an IPv6 network takes long to work out.
        self.owner = owner_of(self.host)
        # True while it waits for its turn; see ``turns``.
        self.in_line = False
        # When it came (seconds, monotonic).
        self.began = now
