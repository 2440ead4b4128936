"""A process in a container's surroundings: process 1 of a namespace, a root that is read-only, a random user.

What the machine does not permit skips a test: a container in which tests run may forbid more of these.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mpchat.cgroup import CGROUP, CGROUPS, groups

# A user that the system has no name for.
RANDOM_UID = 54_321
# Makes the process that it becomes get the orphans below it, as process 1 does.
_SUBREAPER = """
import ctypes, os, sys
PR_SET_CHILD_SUBREAPER = 36
assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1) == 0
os.execvp(sys.argv[1], sys.argv[1:])
"""


def as_process_1() -> list[str]:
    """Return the words before a command that make it process 1 of a namespace."""
    rights = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return _permitted("unshare", *rights, "--pid", "--fork", "--kill-child", "--mount-proc")


def as_subreaper() -> list[str]:
    """Return the words before a command that give it the orphans below it."""
    return [sys.executable, "-c", _SUBREAPER]


def with_read_only_root(writable: Path) -> list[str]:
    """Return the words before a command that let it write nothing below the root but one folder."""
    script = f'mount -t tmpfs -o mode=1777 tmpfs {writable} && mount -o remount,bind,ro / && exec "$@"'
    return _permitted("unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh")


def _permitted(*words: str) -> list[str]:
    tried = subprocess.run([*words, "true"], capture_output=True, text=True, timeout=20, check=False)
    if tried.returncode != 0:
        pytest.skip(f"not permitted here: {words[0]}: {tried.stderr.strip()}")
    return list(words)


@contextmanager
def sticky_folder() -> Iterator[Path]:
    """A folder like /tmp, which a random user reaches: those of tests are for their own user alone."""
    folder = Path(tempfile.mkdtemp(prefix="mpchat-test-", dir="/tmp"))
    try:
        folder.chmod(0o1777)
        yield folder
    finally:
        shutil.rmtree(folder)


def as_random_user() -> list[str]:
    """Return the words before a command that give it a user that the system has no name for.

    It may read all, or else a home folder that holds the interpreter would be in its way. It may write
    nothing more for that.
    """
    who = [f"--reuid={RANDOM_UID}", f"--regid={RANDOM_UID}", "--clear-groups"]
    return _permitted("setpriv", *who, "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")


@contextmanager
def control_group(controller: str, **limits: str) -> Iterator[list[str]]:
    """Make a control group with limits in files of its folder; yield the words before a command in it.

    A file's name is written with underscores; the version that this machine has decides which ones count.
    """
    inside = groups(controller, CGROUP, CGROUPS)
    if not inside:
        pytest.skip(f"no control groups for {controller} here")
    folder = inside[0].folder / f"mpchat-test-{controller}-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"not permitted here: a control group: {error.strerror}")
    try:
        there = {folder / f"{controller}.{name}": value for name, value in limits.items()}
        there = {path: value for path, value in there.items() if path.exists()}
        if not there:
            pytest.skip(f"not permitted here: {controller} of an own control group")
        for path, value in there.items():
            path.write_text(value)
        yield ["sh", "-c", f'echo $$ > {folder}/cgroup.procs && exec "$@"', "sh"]
    finally:
        folder.rmdir()
