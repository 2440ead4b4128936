"""Trusted files: keys, secrets and certificates, which no stranger may decide, and of which some are private.

Not here: what is in them. Errors name the setting that named the file.
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path

from mpchat.errors import MpchatError, StartError
from mpchat.instance.owners import others_may_write, user_name

# Bytes of such a file, at most.
MOST = 1 << 20


def read_trusted(setting: str, path: str, what: str, is_private: Callable[[bytes], bool]) -> bytes:
    """Return what is in a file that no stranger can have written, nor read if ``is_private`` says so of it.

    ``what`` is meant to be in it, such as "a key". The file's group may read it: a server often has its keys
    so. The path may be a link, as those of Let's Encrypt and Kubernetes are; in a sticky folder that belongs
    to root, as /tmp does, nobody else can replace the file. Never waits, whatever is at the path. Raise
    :class:`StartError` for no plain file, a file over 1 MiB, one that other users own, or may write or read,
    and one that they may replace.
    """
    try:
        with open(path, "rb", opener=_at_once) as file:
            about = os.fstat(file.fileno())
            data = file.read(MOST + 1)
    except OSError as error:
        raise StartError(f"{setting}: cannot read {path}: {error.strerror}") from None
    if not stat.S_ISREG(about.st_mode) or len(data) > MOST:
        raise StartError(f"{setting}: {path} is no file with {what}")
    private = is_private(data)
    if about.st_mode & (stat.S_IRWXO | stat.S_IWGRP if private else stat.S_IWOTH):
        does = "read or change" if private else "change"
        raise StartError(f"{setting}: others may {does} {path}; chmod {'640' if private else '644'} it")
    me = os.geteuid()
    try:
        if not {about.st_uid, os.lstat(path).st_uid} <= {0, me}:
            raise StartError(f"{setting}: {path} belongs to another user")
        for folder in _folders(Path(path)):
            inside = os.stat(folder)
            # The group may write a certificate, so it may replace it too.
            open_to = others_may_write(inside, me) if private else inside.st_mode & stat.S_IWOTH
            if inside.st_uid not in (0, me) or (open_to and not inside.st_mode & stat.S_ISVTX):
                raise StartError(f"{setting}: {_why_not_in(folder, inside)}")
    except OSError as error:
        raise StartError(f"{setting}: cannot read {path}: {error.strerror}") from None
    return data


def _folders(path: Path) -> list[Path]:
    """Return the folder of a path, and that of what it leads to when it is a link or is behind one."""
    return list(dict.fromkeys((path.parent, Path(os.path.realpath(path)).parent)))


def _why_not_in(folder: Path, about: os.stat_result) -> str:
    """Return why a file in a folder is not trusted, and the next step."""
    me = os.geteuid()
    if about.st_uid not in (me, 0):
        return f"the folder {folder} belongs to another user, {user_name(about.st_uid)}"
    own = about.st_uid == me and not about.st_mode & stat.S_ISVTX
    step = f"close it with: chmod go-w {folder}" if own else "choose another folder"
    return f"others may write the folder {folder}; {step}"


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would be waited for


def check_own_file(path: Path, *, public: bool = False) -> os.stat_result | None:
    """Return the status of a file that this user alone may read and write; None when there is no file.

    A ``public`` file may be read by others. Opens nothing. Raise :class:`MpchatError` for anything but a
    plain file or a link to one, for a file or a link of another user, and where others may read or write the
    file or may put files beside it. That holds for a sticky folder such as /tmp too: SQLite obeys a journal
    that lies beside its file. Raise ``OSError`` if the path cannot be looked at.
    """
    me = os.geteuid()
    for folder in _folders(path):
        try:
            about = folder.stat()
        except FileNotFoundError:
            return None
        if about.st_uid not in (me, 0) or others_may_write(about, me):
            raise MpchatError(_why_not_in(folder, about))
    try:
        link, about = path.lstat(), path.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(about.st_mode):
        raise MpchatError(f"{path} is not a plain file")
    for status in (link, about):
        if status.st_uid not in (me, 0):
            raise MpchatError(f"{path} belongs to another user, {user_name(status.st_uid)}")
    if public and others_may_write(about, me):
        raise MpchatError(f"others may write {path}; close it with: chmod go-w {path}")
    if not public and about.st_mode & 0o077:
        raise MpchatError(f"others may read or write {path}; close it with: chmod 600 {path}")
    return about
