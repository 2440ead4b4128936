"""A loop where the system's limit of watches can be reached."""

import errno
from collections.abc import Callable
from typing import Any

from mpchat.reactor import Reactor


class LimitedReactor(Reactor):
    """Refuses the next ``refusals`` watches as the system does (``fs.epoll.max_user_watches``)."""

    refusals = 0

    def watch(self, target: Any, events: int, on_event: Callable[[int], None]) -> None:
        """Watch, or raise ``OSError``."""
        if self.refusals:
            self.refusals -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        super().watch(target, events, on_event)
