"""Ask the user for a secret at the terminal, without echo, also when standard input is a pipe."""

import getpass
import locale
import warnings

from mpchat.errors import MpchatError


def ask_secret(what: str, other: str) -> str:
    """Return what the user types for ``what``, such as ``password``; ``other`` is the way without a terminal.

    Raises ``MpchatError`` where there is no terminal, when nothing is typed, and for bytes that are no text
    in the encoding of the locale.
    """
    try:
        with warnings.catch_warnings():
            # Without a terminal getpass would warn, and read from standard input with echo.
            warnings.simplefilter("error", getpass.GetPassWarning)
            typed = getpass.getpass(f"{what}: ")
        # Some locales let bytes that are no text pass as halves of surrogate pairs.
        typed.encode()
    except (getpass.GetPassWarning, OSError):
        raise MpchatError(f"there is no terminal to ask for the {what}; {other}") from None
    except UnicodeError:
        encoding = locale.getpreferredencoding(do_setlocale=False)
        text = f"the {what} that was typed is not {encoding}, the encoding of this terminal's locale"
        raise MpchatError(text) from None
    except EOFError:
        typed = ""
    if not typed:
        raise MpchatError(f"no {what} was given")
    return typed
