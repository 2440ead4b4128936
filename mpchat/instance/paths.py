"""Paths: where an instance keeps its files: in one folder that only its user may enter."""

import os
import shlex
import stat
import warnings
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from mpchat.errors import ConfigError, StartError
from mpchat.instance.owners import others_may_write, user_name

# The way out of a folder that does not do.
_ELSEWHERE = "choose another with --runtime-dir or MPCHAT_RUNTIME_DIR"


class Paths(NamedTuple):
    """Where an instance keeps its files, all in one folder of mode 0700."""

    folder: Path

    @property
    def lock(self) -> Path:
        """The lock's file; it is never removed."""
        return self.folder / "lock"

    @property
    def workers(self) -> Path:
        """The second lock's file, which workers hold."""
        return self.folder / "workers.lock"

    @property
    def record(self) -> Path:
        """What the server says of itself."""
        return self.folder / "record.json"

    @property
    def control(self) -> Path:
        """The control socket."""
        return self.folder / "control.sock"

    @property
    def bans(self) -> Path:
        """Bans and mutes, where no setting says another place."""
        return self.folder / "bans.json"

    @property
    def log(self) -> Path:
        """The log, where no setting says another place."""
        return self.folder / "server.log"


def paths(name: str, runtime_dir: str) -> Paths:
    """Return an instance's paths; no file is touched. An empty ``runtime_dir`` is the user's own.

    Raise :class:`ConfigError` for a path that is not UTF-8.
    """
    base = Path(runtime_dir).absolute() if runtime_dir else _user_runtime_folder()
    return Paths(Path(utf8_path(str(base))) / name)


def utf8_path(path: str) -> str:
    """Return ``path``. Raise :class:`ConfigError` if it holds bytes that are not UTF-8.

    Answers and reports are JSON, which cannot carry such bytes, and no terminal shows them.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{path!r} is not UTF-8; allowed: a path in UTF-8") from None
    return path


def _user_runtime_folder() -> Path:
    import platformdirs

    with warnings.catch_warnings():  # XDG_RUNTIME_DIR is often missing: no reason to warn
        warnings.simplefilter("ignore")
        try:
            return platformdirs.user_runtime_path("mpchat")
        except OSError:
            # Not what tempfile chooses: in the end that is the current folder, another one for each command.
            return Path(os.environ.get("TMPDIR") or "/tmp") / f"mpchat-{os.getuid()}"


def option_text(name: str, runtime_dir: str) -> str:
    """Return the options that address this instance, as they follow a command; none for the default."""
    options = "" if name == "default" else f" --name {name}"
    return options + (f" --runtime-dir {shlex.quote(runtime_dir)}" if runtime_dir else "")


def prepare_folder(folder: Path) -> None:
    """Create the instance's folder, or check that only this user may enter it. Raise :class:`StartError`."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        check_folder(folder)
    except OSError as error:
        raise cannot_make(folder, error.strerror) from None


def cannot_make(folder: Path, why: str | None) -> StartError:
    """Return the error for a folder that is not there and cannot be made."""
    return StartError(f"cannot make the folder {folder}: {why}; {_ELSEWHERE}")


def check_folder(folder: Path) -> None:
    """Check that only this user may enter or replace the instance's folder; change nothing.

    Raise :class:`StartError`, and ``OSError`` if the folder is not there.
    """
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise StartError(f"{folder} is not a folder; remove it, or {_ELSEWHERE}")
    if status.st_uid != os.geteuid():
        owner = user_name(status.st_uid)
        raise StartError(f"{folder} belongs to another user, {owner}; {_ELSEWHERE}")
    if status.st_mode & 0o077:
        raise StartError(f"others may enter {folder}; close it with: chmod 700 {folder}")
    check_place(folder.parent)


def check_place(place: Path) -> None:
    """Check that no other user may replace what is in ``place``. Raise as :func:`check_folder` does."""
    parent = place.stat()
    if parent.st_uid not in (os.geteuid(), 0) or (
        others_may_write(parent, os.geteuid()) and not parent.st_mode & stat.S_ISVTX
    ):
        raise StartError(f"others may replace what is in {place}; {_ELSEWHERE}")
