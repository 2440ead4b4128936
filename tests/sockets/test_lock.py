"""The lock of an instance, in this process: one guard at a time, and what it does about survivors.

The survivors are small processes that hold the workers' lock. The guard's own tests use whole servers.
"""

import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from support.waiting import eventually

from mpchat.config import Config, Origin, resolve
from mpchat.errors import AlreadyRunningError, StartError
from mpchat.instance import lock, second_start
from mpchat.instance.lock import Guard
from mpchat.instance.paths import Paths
from mpchat.instance.record import Identity, Record, read_record, write_record
from mpchat.instance.second_start import refuse_second_start
from mpchat.supervisor.record_keeper import RecordKeeper

# Holds the lock that workers hold, and says so; ends after some seconds.
HOLDER = """
import fcntl, os, sys, time
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
fcntl.flock(descriptor, fcntl.LOCK_SH)
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Holders that will not go are not waited for long, and those that were killed long enough."""
    monkeypatch.setattr(second_start, "LOCK_PATIENCE", 0.1)
    monkeypatch.setattr(second_start, "LIVING_PATIENCE", 0.05)
    monkeypatch.setattr(lock, "SURVIVORS_PATIENCE", 0.1)
    monkeypatch.setattr(lock, "SURVIVORS_KILLED", 20.0)


def named(name: str, folder: Path) -> Config:
    """Return the settings of an instance that keeps its files there."""
    settings = {"name": name, "runtime_dir": str(folder)}
    return resolve([{key: Origin(value, key) for key, value in settings.items()}])[0]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return named("one", tmp_path)


@contextmanager
def held(config: Config) -> Iterator[Guard]:
    """A guard that has the instance's name."""
    guard = Guard(config)
    try:
        guard.acquire()
        yield guard
    finally:
        guard.release()


def refused(config: Config) -> None:
    """A second guard of this name gets nowhere, and leaves nothing behind."""
    before = open_files()
    with pytest.raises(AlreadyRunningError):
        Guard(config).acquire()
    assert open_files() == before


def open_files() -> int:
    return psutil.Process().num_fds()


@contextmanager
def survivor(paths: Paths, seconds: float = 600.0) -> Iterator["subprocess.Popen[str]"]:
    """A process that holds the workers' lock."""
    paths.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    program = [sys.executable, "-c", HOLDER, str(paths.workers), str(seconds)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.kill()


def remember(paths: Paths, *workers: Identity, **more: str) -> None:
    """Leave the record of a server that is gone and had these workers."""
    write_record(paths.record, Record(Identity(1, 0.0), 1.0, [], "0", list(workers), **more))


# One at a time.


def test_while_one_guard_has_the_name_no_other_gets_it(config: Config) -> None:
    with held(config):
        refused(config)
        refused(config)
    with held(config):
        pass


def test_other_names_and_other_folders_are_free(config: Config, tmp_path: Path) -> None:
    other = named("two", tmp_path)
    elsewhere = named("one", tmp_path / "elsewhere")
    with held(config), held(other), held(elsewhere):
        refused(config)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, whose own group has no other members")
def test_a_group_may_write_the_folder_above_if_it_is_the_users_own_group(tmp_path: Path) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir()
    runtime.chmod(0o775)
    config = named("one", runtime)
    refuse_second_start(config)
    with held(config):
        pass
    os.chown(runtime, 0, 54321)
    with pytest.raises(StartError, match=r"others may replace what is in .*/run; choose another with"):
        refuse_second_start(config)
    with pytest.raises(StartError, match="others may replace"):
        Guard(config).acquire()
    runtime.chmod(0o1775)
    with held(config):
        pass
    os.chown(runtime, 54321, 54321)
    with pytest.raises(StartError, match="others may replace"):
        refuse_second_start(config)


def test_a_release_gives_back_every_descriptor(config: Config) -> None:
    before = open_files()
    for _ in range(3):
        with held(config):
            assert open_files() == before + 3  # the lock, the kernel's name, the workers' lock
        assert open_files() == before


def test_with_its_lock_file_gone_the_name_is_still_taken(config: Config) -> None:
    with held(config) as guard:
        guard.paths.lock.unlink()
        refused(config)


def test_the_same_folder_by_another_path_is_the_same_name(config: Config, tmp_path: Path) -> None:
    link = tmp_path.with_name(f"{tmp_path.name}-link")
    link.symlink_to(tmp_path)
    try:
        with held(config) as guard:
            guard.paths.lock.unlink()
            refused(named("one", link))
    finally:
        link.unlink()


def test_a_name_that_is_released_meanwhile_is_waited_for(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(second_start, "LOCK_PATIENCE", 20.0)
    paths = Guard(config).paths
    paths.folder.mkdir(mode=0o700)
    program = HOLDER.replace("LOCK_SH", "LOCK_EX")
    command = [sys.executable, "-c", program, str(paths.lock), "0.3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with held(config):
            pass


# The look of a command at the lock, before it starts a server.


def test_a_look_refuses_while_the_lock_is_held_and_leaves_no_trace(config: Config) -> None:
    refuse_second_start(config)
    assert not Guard(config).paths.lock.exists()
    with held(config) as guard:
        before = open_files()
        with pytest.raises(AlreadyRunningError):
            refuse_second_start(config)
        assert open_files() == before
        assert guard.in_place
    refuse_second_start(config)
    with held(config):
        pass


def test_looks_make_no_start_fail(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_start, "LOCK_PATIENCE", 0.0)
    monkeypatch.setattr(second_start, "LIVING_PATIENCE", 0.0)
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            with suppress(AlreadyRunningError):
                refuse_second_start(config)

    looks = [threading.Thread(target=look) for _ in range(3)]
    for each in looks:
        each.start()
    try:
        for _ in range(100):
            with held(config):
                pass
    finally:
        ended.set()
        for each in looks:
            each.join()


def test_a_look_waits_for_a_holder_that_ends(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_start, "LOCK_PATIENCE", 20.0)
    guard = Guard(config)
    guard.acquire()
    release = threading.Timer(0.3, guard.release)
    release.start()
    refuse_second_start(config)
    assert release.finished.is_set()
    release.join()


@pytest.mark.parametrize("kind", ["a folder", "a symlink"])
def test_a_look_leaves_a_lock_that_is_no_plain_file_to_the_guard(config: Config, kind: str) -> None:
    paths = Guard(config).paths
    paths.folder.mkdir(mode=0o700)
    if kind == "a folder":
        paths.lock.mkdir()
    else:
        paths.lock.symlink_to("/dev/null")
    refuse_second_start(config)
    with pytest.raises(StartError):
        Guard(config).acquire()


# The kernel's name, which anybody can take.

# Takes the abstract socket of a guard's name, and says so; ends when it is told.
OCCUPIER = """
import os, socket, sys
if int(sys.argv[2]):
    os.setuid(int(sys.argv[2]))
taken = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
taken.bind("\\0" + sys.argv[1])
print("taken", flush=True)
sys.stdin.read()
"""
# Another container with the same path, as far as files go: a mount namespace with another disk there.
CONTAINER = 'mount -t tmpfs none "$0" && mkdir -m 700 "$0/one" && exec "$@"'


@contextmanager
def occupied(config: Config, *, before: Sequence[str] = (), user: int = 0) -> Iterator[None]:
    """Another process has the kernel's name of the guard of ``config``; root starts it."""
    with held(config) as guard:
        assert guard._kernel_name is not None
        name = guard._kernel_name.getsockname()[1:].decode()
    command = [*before, sys.executable, "-c", OCCUPIER, name, str(user)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if process.stdout.readline() != "taken\n":
            pytest.skip("this machine lets nobody make a namespace of mounts")
        yield


@pytest.mark.skipif(sys.platform != "linux", reason="needs abstract sockets, which only Linux has")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user or another container")
@pytest.mark.parametrize("who", ["another user", "another container"])
def test_a_kernel_name_of_a_process_that_is_not_ours_prevents_no_start(
    config: Config, tmp_path: Path, who: str
) -> None:
    container = ["unshare", "--mount", "sh", "-c", CONTAINER, str(tmp_path)]
    before, user = (container, 0) if who == "another container" else ((), 65534)
    with occupied(config, before=before, user=user), held(config) as guard:
        assert guard.alone
        refused(config)
    with held(config) as guard:
        assert not guard.alone


# A guard in a container; then two more starts there: as it is, and with the lock's file gone.
GUARD_IN_CONTAINER = """
import sys
from pathlib import Path
from mpchat.config import Origin, resolve
from mpchat.errors import AlreadyRunningError
from mpchat.instance.lock import Guard
given = {"name": "one", "runtime_dir": sys.argv[1]}
config = resolve([{key: Origin(value, key) for key, value in given.items()}])[0]
def again():
    guard = Guard(config)
    try:
        guard.acquire()
    except AlreadyRunningError:
        return "refused"
    guard.release()
    return "started"
guard = Guard(config)
guard.acquire()
print("alone" if guard.alone else "first", flush=True)
sys.stdin.readline()
first = again()
guard.paths.lock.unlink()
print(first, again(), flush=True)
"""
# As Docker makes it: mounts and processes of its own; the network is that of the machine, and so of others.
AS_DOCKER = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", CONTAINER]


@contextmanager
def guard_in_container(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that is a guard at this path, in a container of its own that sees no process outside."""
    command = [*AS_DOCKER, str(folder), sys.executable, "-c", GUARD_IN_CONTAINER, str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="needs namespaces, which only Linux has")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make containers")
def test_containers_that_share_a_network_and_no_processes_both_start_and_neither_starts_twice(
    tmp_path: Path,
) -> None:
    if subprocess.run([*AS_DOCKER, str(tmp_path), "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody make namespaces of mounts and processes")
    with guard_in_container(tmp_path) as one:
        assert heard(one) == "first"
        with guard_in_container(tmp_path) as other:
            assert heard(other) == "alone"
            # The kernel's name stands behind the lock only where it could be had.
            assert other.communicate("\n", timeout=30.0) == ("refused started\n", "")
        assert one.communicate("\n", timeout=30.0) == ("refused refused\n", "")


def heard(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip()


def test_a_kernel_name_that_an_own_process_has_prevents_a_start(config: Config) -> None:
    with occupied(config):
        refused(config)


# Files that go away while it is held.


@pytest.mark.parametrize("how", ["removed", "replaced", "folder removed"])
def test_a_lock_file_that_is_gone_is_taken_again(config: Config, how: str) -> None:
    with held(config) as guard:
        assert not guard.heal()
        if how == "removed":
            guard.paths.lock.unlink()
        elif how == "replaced":
            guard.paths.lock.rename(guard.paths.lock.with_name("away"))
            guard.paths.lock.touch(mode=0o600)
        else:
            for each in guard.paths.folder.iterdir():
                each.unlink()
            guard.paths.folder.rmdir()
        before = open_files()
        assert guard.heal()
        assert not guard.heal()
        assert open_files() == before
        refused(config)


def test_a_lock_file_that_another_process_has_locked_is_not_taken_again(config: Config) -> None:
    with held(config) as guard:
        guard.paths.lock.unlink()
        program = HOLDER.replace("LOCK_SH", "LOCK_EX")
        command = [sys.executable, "-c", program, str(guard.paths.lock), "600"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            assert not guard.heal()
            process.kill()
            process.wait(10.0)
        assert guard.heal()


# Workers of a killed supervisor.


def test_a_survivor_that_the_record_names_is_ended(config: Config) -> None:
    paths = Guard(config).paths
    with survivor(paths) as process:
        remember(paths, Identity.of(process.pid))
        with held(config):
            assert process.wait(10.0) == -9


def test_a_survivor_that_ends_by_itself_is_waited_for(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "SURVIVORS_PATIENCE", 20.0)
    paths = Guard(config).paths
    with survivor(paths, 0.3) as process:
        remember(paths, Identity.of(process.pid))
        with held(config):
            assert process.wait(10.0) == 0


@pytest.mark.parametrize("record", ["none", "another start", "another boot"])
def test_a_process_that_the_record_does_not_name_is_told_and_not_ended(config: Config, record: str) -> None:
    paths = Guard(config).paths
    with survivor(paths) as process:
        identity = Identity.of(process.pid)
        if record == "another start":
            remember(paths, Identity(identity.pid, identity.born - 100))
        elif record == "another boot":
            remember(paths, identity, boot="another")
        not_acquired(config)
        assert process.poll() is None


def test_a_process_that_the_record_names_and_that_holds_another_lock_is_not_ended(
    config: Config, tmp_path: Path
) -> None:
    paths, others = Guard(config).paths, Guard(named("two", tmp_path)).paths
    with survivor(paths) as process, survivor(others) as bystander:
        remember(paths, Identity.of(bystander.pid))
        not_acquired(config)
        assert (process.poll(), bystander.poll()) == (None, None)


def not_acquired(config: Config) -> None:
    """The start fails, because a process that it must not end still holds the workers' lock."""
    guard = Guard(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lock, "SURVIVORS_KILLED", 0.1)
        with pytest.raises(StartError, match=r"still run \(pid unknown\) and hold .*workers\.lock"):
            guard.acquire()
    guard.release()


def test_of_many_survivors_all_are_ended(config: Config) -> None:
    paths = Guard(config).paths
    with survivor(paths) as one, survivor(paths) as other:
        remember(paths, Identity.of(one.pid), Identity.of(other.pid))
        with held(config):
            assert (one.wait(10.0), other.wait(10.0)) == (-9, -9)


def test_a_worker_may_hold_its_lock_as_soon_as_the_name_is_taken(config: Config) -> None:
    with held(config) as guard, survivor(guard.paths) as process:
        assert process.poll() is None


# Records.


def test_a_record_says_what_was_written_until_the_next_boot(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    record = Record(Identity.of(os.getpid()), 12.5, ["127.0.0.1:4000"], "1.0", [Identity(2, 3.0)])
    write_record(path, record)
    assert read_record(path) == record
    assert os.listdir(tmp_path) == ["record.json"]
    write_record(path, Record(Identity(1, 2.0), 1.0, [], "1.0", boot="another"))
    assert read_record(path) is None


def test_a_record_that_cannot_be_written_for_want_of_descriptors_is_a_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = RecordKeeper(tmp_path / "record.json", Identity.of(os.getpid()), 1.0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        keeper.set_workers([])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "record not written: Too many open files" in caplog.text
    keeper.heal()
    assert read_record(tmp_path / "record.json") is not None


def test_a_process_that_has_ended_and_is_not_waited_for_yet_is_not_alive() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        identity = Identity.of(process.pid)
        alive = identity.process()
        assert alive is not None
        assert Identity(process.pid, identity.born + 1.4).process() is not None
        assert Identity(process.pid, identity.born + 1.6).process() is None
        assert process.stdin is not None
        process.stdin.close()
        eventually(lambda: alive.status() == psutil.STATUS_ZOMBIE, "the process to end")
        assert identity.process() is None
    assert identity.process() is None
