"""Multiplexer: which of the system's ways to wait for many descriptors the setting ``multiplexer`` means.

Commands use this module to check the setting before they start a server, so it does not load the loop.
"""

import selectors

from mpchat.errors import ConfigError

_SELECTORS = {
    "auto": "DefaultSelector",
    "epoll": "EpollSelector",
    "kqueue": "KqueueSelector",
    "poll": "PollSelector",
    "select": "SelectSelector",
}


def make_selector(name: str) -> selectors.BaseSelector:
    """Return a selector for a multiplexer. Raise :class:`ConfigError` if the system lacks it."""
    kind = getattr(selectors, _SELECTORS[name], None)
    if kind is None:
        have = ", ".join(each for each, attribute in _SELECTORS.items() if hasattr(selectors, attribute))
        raise ConfigError(f"this system has no {name}; multiplexer can be one of {have}")
    selector: selectors.BaseSelector = kind()
    return selector
