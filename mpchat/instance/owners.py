"""Owners: which user a file or folder belongs to, and what that means for this user.

The super user is trusted everywhere: it may do anything anyway.
"""

import grp
import os
import pwd
import shlex
import stat
from contextlib import suppress
from pathlib import Path

from mpchat.errors import ConfigError, MpchatError


def user_name(uid: int) -> str:
    """Return a user's name, or its number where the system has no name for it."""
    with suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return f"user {uid}"


def check_entry(folder: Path) -> None:
    """Raise :class:`MpchatError` if this user may not look into ``folder`` or a folder on the way to it.

    A folder that does not exist is no error.
    """
    for each in (*reversed(folder.parents), folder):
        with suppress(FileNotFoundError, NotADirectoryError):
            owner = user_name(each.stat().st_uid)
            if not os.access(each, os.X_OK):
                raise MpchatError(
                    f"not allowed to look into {each}, owned by {owner}: "
                    f"run as {owner} or set MPCHAT_RUNTIME_DIR"
                )


def check_trusted(path: Path, opened: os.stat_result) -> None:
    """Raise :class:`ConfigError` if another user can decide what the settings file at ``path`` says.

    ``opened`` is the status of the file itself; ``path`` may be a link to it. Raise ``OSError`` if the path
    leads nowhere by now.
    """
    for status in (path.lstat(), opened):
        if status.st_uid not in (os.geteuid(), 0):
            raise _not_trusted(path, f"it belongs to {user_name(status.st_uid)}")
    if others_may_write(opened):
        close = f"close it with: chmod go-w {shlex.quote(str(path))}"
        raise _not_trusted(path, f"users besides {user_name(opened.st_uid)} may write it; {close}")
    folder = path.parent.stat()
    if others_may_write(folder) and not folder.st_mode & stat.S_ISVTX:
        raise _not_trusted(path, f"users besides {user_name(folder.st_uid)} may replace it in its folder")


def _not_trusted(path: Path, why: str) -> ConfigError:
    return ConfigError(f"{path} is not obeyed: {why}; to insist, name it: --config {shlex.quote(str(path))}")


def others_may_write(status: os.stat_result) -> bool:
    """Tell whether users besides the owner, this user and root may write a file or folder."""
    if status.st_mode & stat.S_IWGRP and not _is_own_group(status.st_gid):
        return True
    return bool(status.st_mode & stat.S_IWOTH)


def _is_own_group(gid: int) -> bool:
    """Tell whether a group is for this user alone: many systems make such a group for each user."""
    with suppress(KeyError):
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
        return user.pw_name == group.gr_name and set(group.gr_mem) <= {user.pw_name}
    return False
