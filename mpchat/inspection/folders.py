"""Folders: the runtime folder, and whether a file could be made or written where a setting says."""

import os
from pathlib import Path

import psutil

from mpchat.errors import MpchatError
from mpchat.inspection.findings import Finding, failure, ok, refused, warning
from mpchat.inspection.scope import Scope
from mpchat.instance.owners import check_entry
from mpchat.instance.paths import cannot_make, check_folder, check_place
from mpchat.text import visible

# Bytes of free space below which the record, the bans and the log may soon not be written.
LEAST_SPACE = 1 << 20
LITTLE_SPACE = 64 << 20
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})
# File systems of other machines: a lock may not hold there, or hang.
_REMOTE = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph", "glusterfs"})


def folders(scope: Scope) -> list[Finding]:
    """Look at the runtime folder and the log."""
    return [_runtime(scope), _log(scope)]


def _runtime(scope: Scope) -> Finding:
    folder, subject = scope.paths.folder, "runtime folder"
    try:
        there = _nearest(folder)
        check_entry(there if os.path.isdir(there) else there.parent)
        if there == folder:
            check_folder(folder)
        elif why := _why_not_made_in(there):
            raise cannot_make(folder, why)
        elif there == folder.parent:
            check_place(there)
    except OSError as error:
        return refused(subject, cannot_make(folder, error.strerror))
    except MpchatError as error:
        return refused(subject, error)
    return _space(subject, folder, there)


def _space(subject: str, folder: Path, there: Path) -> Finding:
    """Look at the disk that a folder is on, or will be."""
    about, kind = os.statvfs(there), _file_system(there)
    free = about.f_bavail * about.f_frsize
    text = f"{visible(str(folder))}, {free >> 20} MiB free" + (f" on {kind}" if kind else "")
    if kind in _IN_MEMORY:
        text += " (in memory: what is there ends with the machine's next restart)"
    if free < LEAST_SPACE or (about.f_files and not about.f_favail):
        return failure(subject, f"{text}: the disk is full", "free some space, or set runtime_dir")
    if free < LITTLE_SPACE:
        return warning(subject, f"{text}: little space", "free some space, or set runtime_dir and log_file")
    if kind in _REMOTE:
        return warning(
            subject, f"{text}: a lock there may not hold", "set runtime_dir to a folder of this machine"
        )
    return ok(subject, text)


def _file_system(path: Path) -> str:
    """Return the kind of file system that a path is on; empty where that is not known."""
    real = Path(os.path.realpath(path))
    mounts = [each for each in psutil.disk_partitions(all=True) if real.is_relative_to(each.mountpoint)]
    return max(mounts, key=lambda each: len(each.mountpoint)).fstype if mounts else ""


def _log(scope: Scope) -> Finding:
    path = Path(scope.config.log_file)
    if path.parent == scope.paths.folder and not os.path.exists(path):
        return ok("log", f"{visible(str(path))}, which a start makes")
    if why := why_not_written(path):
        return failure("log", f"cannot write {visible(str(path))}: {why}", "see --log-file")
    return ok("log", visible(str(path)))


def why_not_written(path: Path) -> str:
    """Return why a file cannot be written, or made if it is not there; empty: it can."""
    if os.path.isdir(path):
        return "it is a folder"
    try:
        path.stat()
    except FileNotFoundError:
        return _why_not_made_in(path.parent)
    except OSError as error:
        return error.strerror or str(error)
    return "" if os.access(path, os.W_OK, effective_ids=_EFFECTIVE) else _no_right(path)


# Whether the user that this process acts for can be asked about, and not only the one that started it.
_EFFECTIVE = os.access in os.supports_effective_ids


def _why_not_made_in(folder: Path) -> str:
    if not os.path.exists(folder):
        return f"the folder {visible(str(folder))} is not there"
    if not os.path.isdir(folder):
        return f"{visible(str(folder))} is not a folder"
    return "" if os.access(folder, os.W_OK | os.X_OK, effective_ids=_EFFECTIVE) else _no_right(folder)


def _no_right(path: Path) -> str:
    read_only = os.statvfs(path).f_flag & os.ST_RDONLY
    return (
        f"{visible(str(path))} is on a read-only file system"
        if read_only
        else f"no right to write {visible(str(path))}"
    )


def _nearest(path: Path) -> Path:
    """Return the path, or the nearest folder around it that is there."""
    return next(each for each in (path, *path.parents) if os.path.lexists(each))
