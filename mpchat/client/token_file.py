"""A file whose first line is a token, read again before each join: another program may renew it.

As ssh does with a key, it is refused where others may read it.
"""

import os
import shlex
import stat

from mpchat.client.proof import NoTokenError

# Bytes of a token's line, at most: far more than a server takes.
_MOST = 16_384
# A token has three parts with dots between.
_DOTS = 2


class TokenFile:
    """The file at ``path``; a call returns its token, as the option ``jwt`` of ``connect`` wants it."""

    def __init__(self, path: str) -> None:
        """Open nothing yet."""
        self._path = path

    def __call__(self) -> str:
        """Return the first line.

        Raises ``NoTokenError`` for a file that cannot be read, that is another user's or that others may
        read, and for a line that is no token. The text never has the line.
        """
        try:
            with open(self._path, "rb", opener=_at_once) as file:
                self._check(os.fstat(file.fileno()))
                line = file.readline(_MOST + 1)
        except OSError as error:
            raise self._unusable(error.strerror or type(error).__name__) from None
        try:
            token = line.decode("ascii").strip()
        except UnicodeDecodeError:
            token = ""
        # A key by mistake is never sent to a server.
        if len(line) > _MOST or not token.isprintable() or token.count(".") != _DOTS:
            raise self._unusable("its first line is no token")
        return token

    def _check(self, about: os.stat_result) -> None:
        if not stat.S_ISREG(about.st_mode):
            raise self._unusable("it is no regular file, which could be read again")
        if about.st_uid not in (0, os.geteuid()):
            raise self._unusable("it belongs to another user")
        if about.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            close = f"chmod 600 {shlex.quote(self._path)}"
            raise self._unusable(f"others may read or change it; close it with: {close}")

    def _unusable(self, reason: str) -> NoTokenError:
        return NoTokenError(f"--token: cannot use {self._path}: {reason}")


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would be waited for
