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

# The way out of a folder that is not the user's own.
_OWN_FOLDER = "set MPCHAT_RUNTIME_DIR or --runtime-dir to a folder of your own"


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


def check_own(folder: Path) -> None:
    """Raise :class:`MpchatError` if another user can decide what an instance's ``folder`` holds.

    Root may use the folder of any user if no third user can write or replace it. A folder that does not exist
    is no error.
    """
    try:
        status, parent = folder.lstat(), folder.parent.stat()
    except (FileNotFoundError, NotADirectoryError):
        return
    owner = user_name(status.st_uid)
    if os.geteuid() not in (status.st_uid, 0):
        raise MpchatError(f"{folder} belongs to {owner}: {_OWN_FOLDER}")
    if not stat.S_ISDIR(status.st_mode):
        raise MpchatError(f"{folder} is not a folder: remove it, or {_OWN_FOLDER}")
    if others_may_write(status, status.st_uid):
        close = f"chmod 700 {shlex.quote(str(folder))}"
        raise MpchatError(
            f"users besides {owner} may write {folder}: close it with: {close}; or {_OWN_FOLDER}"
        )
    if parent.st_uid not in (status.st_uid, 0) or (
        others_may_write(parent, status.st_uid) and not parent.st_mode & stat.S_ISVTX
    ):
        raise MpchatError(f"users besides {owner} may replace what is in {folder.parent}: {_OWN_FOLDER}")


def check_trusted(path: Path, opened: os.stat_result) -> None:
    """Raise :class:`ConfigError` if another user can decide what the settings file at ``path`` says.

    ``opened`` is the status of the file itself; ``path`` may be a link to it. Raise ``OSError`` if the path
    leads nowhere by now.
    """
    for status in (path.lstat(), opened):
        if status.st_uid not in (os.geteuid(), 0):
            raise _not_trusted(path, f"it belongs to {user_name(status.st_uid)}")
    if others_may_write(opened, os.geteuid()):
        close = f"close it with: chmod go-w {shlex.quote(str(path))}"
        raise _not_trusted(path, f"users besides {user_name(opened.st_uid)} may write it; {close}")
    folder = path.parent.stat()
    if others_may_write(folder, os.geteuid()) and not folder.st_mode & stat.S_ISVTX:
        raise _not_trusted(path, f"users besides {user_name(folder.st_uid)} may replace it in its folder")


def _not_trusted(path: Path, why: str) -> ConfigError:
    return ConfigError(f"{path} is not obeyed: {why}; to insist, name it: --config {shlex.quote(str(path))}")


def others_may_write(status: os.stat_result, uid: int) -> bool:
    """Tell whether users besides the owner, the user ``uid`` and root may write a file or folder."""
    if status.st_mode & stat.S_IWGRP and not _is_own_group(status.st_gid, uid):
        return True
    return bool(status.st_mode & stat.S_IWOTH)


def _is_own_group(gid: int, uid: int) -> bool:
    """Tell whether a group is for one user alone: many systems make such a group for each user."""
    with suppress(KeyError):
        user, group = pwd.getpwuid(uid), grp.getgrgid(gid)
        return user.pw_name == group.gr_name and set(group.gr_mem) <= {user.pw_name}
    return False
