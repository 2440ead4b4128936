"""Hook part: switches the webhook on and off as the settings say. Off, nothing of it is loaded or asked."""

from typing import TYPE_CHECKING

from mpchat.control.answers import Webhook
from mpchat.hook.target import Target
from mpchat.hub.hub import Hub

if TYPE_CHECKING:
    from mpchat.hook.hook import Hook

# Seconds that a stop gives what still waits for the receiver, at most.
PATIENCE = 3.0


class HookPart:
    """The webhook, while there is one."""

    def __init__(self, hub: Hub, server: str) -> None:
        """Begin without one; ``server`` is the server's name."""
        self._hub = hub
        self._server = server
        self._hook: Hook | None = None

    def follow(self, target: Target | None) -> None:
        """Do what the settings say now; None: there is to be no webhook."""
        if target is None:
            if self._hook is not None:
                self._hub.be_watched(None, None)
                self._hook.end()
                self._hook = None
        elif self._hook is not None:
            self._hook.follow(target)
        else:
            from mpchat.hook.hook import Hook  # loads an HTTP client

            self._hook = Hook(target, self._server)
            self._hub.be_watched(self._hook.said, self._hook.moved)

    def status(self) -> Webhook | None:
        """Return the state of the deliveries; None: there is no webhook."""
        return Webhook(**self._hook.status()._asdict()) if self._hook is not None else None

    def close(self, timeout: float) -> None:
        """Deliver what waits, for so many seconds and :data:`PATIENCE` at most. Nothing is said any more."""
        if self._hook is not None:
            self._hook.close(min(timeout, PATIENCE))
