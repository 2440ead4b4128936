"""Ask the user for a secret at the terminal, without echo, also when standard input is a pipe."""

import getpass
import warnings

from mpchat.errors import MpchatError


def ask_secret(what: str, other: str) -> str:
    """Return what the user types for ``what``, such as ``password``; ``other`` is the way without a terminal.

    Raises ``MpchatError`` where there is no terminal, and when nothing is typed.
    """
    try:
        with warnings.catch_warnings():
            # Without a terminal getpass would warn, and read from standard input with echo.
            warnings.simplefilter("error", getpass.GetPassWarning)
            typed = getpass.getpass(f"{what}: ")
    except (getpass.GetPassWarning, OSError):
        raise MpchatError(f"there is no terminal to ask for the {what}; {other}") from None
    except (EOFError, UnicodeError):
        typed = ""
    if not typed:
        raise MpchatError(f"no {what} was given")
    return typed
