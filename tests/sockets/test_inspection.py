"""What an inspection finds, each by its real fault: files, folders, sockets, certificates, Redis."""

import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path

import pytest
from support.redis_server import RedisServer
from support.tls import Authority

from mpchat.auth.accounts import Accounts
from mpchat.auth.passwords import COST, Stored
from mpchat.hub.archive import Archive
from mpchat.hub.history_lock import lock_history
from mpchat.inspection import installation as installation_module
from mpchat.inspection import machine as machine_module
from mpchat.inspection import network
from mpchat.inspection.findings import Finding, Level
from mpchat.inspection.inspect import inspect
from mpchat.memory_limit import MemoryLimit
from mpchat.settings import Sources
from mpchat.supervisor.listeners import BACKLOG

MIB = 1 << 20
Inspect = Callable[..., dict[str, Finding]]


def of(found: list[Finding]) -> dict[str, Finding]:
    """Return findings by subject; of several the worst."""
    order = list(Level)
    return {each.subject: each for each in sorted(found, key=lambda each: order.index(each.level))}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The runtime folder; what is inspected lies beside it."""
    base = tmp_path / "run"
    base.mkdir(mode=0o700)
    return base


@pytest.fixture
def look(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Inspect:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    def inspected(environment: dict[str, str] | None = None, **flags: object) -> dict[str, Finding]:
        given = {"runtime_dir": str(base), "port": "0"} | {name: str(value) for name, value in flags.items()}
        return of(inspect(Sources.of_command(None, given), environment or {}))

    return inspected


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder, byte by byte."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def assert_fails(finding: Finding, *words: str, level: Level = Level.FAILURE) -> None:
    assert finding.level is level, finding
    assert finding.remedy, "no remedy"
    for word in words:
        assert word in f"{finding.text} {finding.remedy}"


def assert_warns(finding: Finding, *words: str) -> None:
    assert_fails(finding, *words, level=Level.WARNING)


def test_where_all_is_well_nothing_is_found_changed_or_left_behind(look: Inspect, tmp_path: Path) -> None:
    before = tree(tmp_path)
    found = look()
    assert {each.level for each in found.values()} <= {Level.OK, Level.WARNING}
    for subject in ("python", "packages", "settings", "instance", "runtime folder", "log", "bans", "port"):
        assert found[subject].level is Level.OK, found[subject]
    assert tree(tmp_path) == before


# Settings.


def test_a_wrong_setting_fails_with_its_place_and_all_that_needs_settings_is_left_out(
    look: Inspect, tmp_path: Path
) -> None:
    (tmp_path / "mpchat.toml").write_text("# mine\nworkers = 4000\n")
    found = look()
    assert found["settings"].level is Level.FAILURE
    assert "mpchat.toml, line 2: workers is 4000, allowed: 0 to 256" in found["settings"].text
    assert set(found) == {"python", "packages", "settings"}


def test_an_unknown_setting_in_the_file_fails(look: Inspect, tmp_path: Path) -> None:
    (tmp_path / "mpchat.toml").write_text("wokers = 4\n")
    assert "unknown setting 'wokers'" in look()["settings"].text


def test_a_variable_that_is_no_setting_is_warned_of_and_others_variables_are_not(look: Inspect) -> None:
    assert_warns(look({"MPCHAT_WOKERS": "4"})["settings"], "MPCHAT_WOKERS", "MPCHAT_WORKERS")
    others = {"MPCHAT_SERVICE_HOST": "10.0.0.1", "MPCHAT_PORT_4000_TCP": "tcp://x", "HOME": "/"}
    assert look(others)["settings"].level is Level.OK


def test_the_place_of_each_setting_is_shown(look: Inspect, tmp_path: Path) -> None:
    (tmp_path / "mpchat.toml").write_text("workers = 1\n")
    text = look({"MPCHAT_NOTICES": "off"})["settings"].text
    assert "port (flag --port)" in text
    assert "mpchat.toml, line 1)" in text
    assert "notices (variable MPCHAT_NOTICES)" in text


def test_settings_that_do_not_go_together_fail(look: Inspect) -> None:
    assert_fails(look(tls="required")["settings"], "tls_cert", "set tls_cert")


# The installation.


def test_a_package_that_is_too_old_or_missing_fails(look: Inspect, monkeypatch: pytest.MonkeyPatch) -> None:
    declared = ["click>=99.1", "no-such-package>=1.0", "psutil>=5", "redis>=99; extra == 'cluster'"]
    monkeypatch.setattr(metadata, "requires", lambda name: declared)
    assert_fails(
        look()["packages"], "click", "older than 99.1", "no-such-package is not installed", "'click>=99.1'"
    )
    assert "redis" not in look()["packages"].remedy


@pytest.mark.parametrize(
    ("found", "oldest", "too_old"), [("8.10", "8.9", False), ("9", "9.0.0", False), ("8.1.rc1", "8.2", True)]
)
def test_versions_are_compared_as_numbers(found: str, oldest: str, too_old: bool) -> None:
    numbers = installation_module._numbers
    assert (numbers(found) < numbers(oldest)) is too_old


# The machine.


def test_more_connections_than_descriptors_are_warned_of(look: Inspect) -> None:
    assert_warns(
        look(max_connections=10_000_000)["descriptors"], "max_connections is 10000000", "LimitNOFILE"
    )


def test_a_limit_that_leaves_no_room_for_clients_fails(tmp_path: Path) -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))\n"
        "from mpchat.cli.commands import main; main()"
    )
    words = [sys.executable, "-c", code, "check", "--port", "0", "--runtime-dir", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1, done.stderr
    assert "60 for each process" in done.stdout
    assert "ulimit -Hn" in " ".join(done.stdout.split())


def test_more_workers_than_cores_are_warned_of(look: Inspect) -> None:
    assert_warns(look(workers=256)["cores"], "256 workers", "workers = 0")


@pytest.mark.parametrize(
    ("free", "level"), [(1 << 50, Level.OK), (300 * MIB, Level.WARNING), (50 * MIB, Level.FAILURE)]
)
def test_memory(look: Inspect, monkeypatch: pytest.MonkeyPatch, free: int, level: Level) -> None:
    monkeypatch.setattr(machine_module, "memory_limit", lambda: MemoryLimit(free + MIB, MIB, True))
    found = look(workers=1)["memory"]
    assert found.level is level
    assert bool(found.remedy) is (level is not Level.OK)


def test_a_kernel_that_loses_bursts_of_connections_is_warned_of(
    look: Inspect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = tmp_path / "net"
    for name, value in (("core/somaxconn", BACKLOG), ("ipv4/tcp_syncookies", 1)):
        (kernel / name).parent.mkdir(parents=True)
        (kernel / name).write_text(f"{value}\n")
    monkeypatch.setattr(machine_module, "_KERNEL", kernel)
    assert look()["kernel"].level is Level.OK
    (kernel / "core/somaxconn").write_text("128\n")
    assert_warns(look()["kernel"], "128", f"sysctl -w net.core.somaxconn={BACKLOG}")
    (kernel / "core/somaxconn").write_text(f"{BACKLOG}\n")
    (kernel / "ipv4/tcp_syncookies").write_text("0\n")
    assert_warns(look()["kernel"], "flood")


def test_a_clock_in_the_past_fails(look: Inspect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 86_400.0)
    assert_fails(look()["clock"], "1970-01-02", "set the clock")


# Folders.


@pytest.mark.parametrize(
    ("mode", "owner", "words"),
    [(0o755, None, ("others may enter", "chmod 700")), (0o700, 54_321, ("another user",))],
)
def test_a_folder_that_a_start_would_refuse(
    look: Inspect, base: Path, mode: int, owner: int | None, words: tuple[str, ...]
) -> None:
    folder = base / "default"
    folder.mkdir()
    folder.chmod(mode)
    if owner is not None:
        if os.geteuid() != 0:
            pytest.skip("only root can give a folder away")
        os.chown(folder, owner, owner)
    assert_fails(look()["runtime folder"], *words)


def test_a_place_where_others_may_replace_the_folder(look: Inspect, base: Path) -> None:
    base.chmod(0o777)
    assert_fails(look()["runtime folder"], "others may replace", "--runtime-dir")
    base.chmod(0o1777)
    assert look()["runtime folder"].level is Level.OK


def test_a_folder_that_cannot_be_made(look: Inspect, base: Path) -> None:
    (base / "file").touch()
    found = look(runtime_dir=base / "file" / "deeper")["runtime folder"]
    assert_fails(found, "cannot make the folder", "file is not a folder", "--runtime-dir")


def test_a_file_in_place_of_the_folder(look: Inspect, base: Path) -> None:
    (base / "default").touch()
    assert_fails(look()["runtime folder"], "is not a folder", "remove it")


@pytest.mark.parametrize(
    ("free", "level"), [(0, Level.FAILURE), (10 * MIB, Level.WARNING), (100 * MIB, Level.OK)]
)
def test_a_disk_that_is_full(look: Inspect, monkeypatch: pytest.MonkeyPatch, free: int, level: Level) -> None:
    real = os.statvfs

    def full(path: str | Path) -> os.statvfs_result:
        about = list(real(path))
        about[1], about[4] = 1, free  # f_frsize, f_bavail
        return os.statvfs_result(about)

    monkeypatch.setattr(os, "statvfs", full)
    found = look()["runtime folder"]
    assert found.level is level
    assert f"{free >> 20} MiB free" in found.text


def test_a_log_that_cannot_be_written(look: Inspect, tmp_path: Path) -> None:
    assert_fails(look(log_file=tmp_path / "nowhere" / "log")["log"], "is not there", "--log-file")
    assert_fails(look(log_file=tmp_path)["log"], "it is a folder")
    (tmp_path / "log").touch()
    assert look(log_file=tmp_path / "log")["log"].level is Level.OK


# What is kept.


def test_a_history_file(look: Inspect, tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    assert "a start makes" in look(history=path)["history"].text
    archive = Archive(path, messages=10, age=0.0)
    archive.open()
    archive.close(5.0)
    before = tree(tmp_path)
    assert look(history=path)["history"].level is Level.OK
    assert tree(tmp_path) == before


def test_a_history_file_that_a_crash_has_left_is_left_as_it_is(look: Inspect, tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    code = (
        "import os, sys; from mpchat.hub.archive import Archive\n"
        "Archive(sys.argv[1], messages=10, age=0.0).open(); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    before = tree(tmp_path)
    assert f"{path.name}-wal" in before
    assert look(history=path)["history"].level is Level.OK
    assert {name: data for name, data in tree(tmp_path).items() if not name.endswith("-shm")} == {
        name: data for name, data in before.items() if not name.endswith("-shm")
    }
    assert tree(tmp_path).keys() == before.keys()


def test_a_history_file_that_another_server_uses(look: Inspect, tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    descriptor = lock_history(path, 0.0)
    try:
        assert_fails(look(history=path)["history"], "used by another server", "another file")
    finally:
        os.close(descriptor)
    assert look(history=path)["history"].level is Level.OK


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE mine (id)")
        db.execute("PRAGMA application_id = 7")


def newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE runs (id)")
        db.execute(f"PRAGMA application_id = {0x6D706368}")
        db.execute("PRAGMA user_version = 99")


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(8192))


def damaged(path: Path) -> None:
    archive = Archive(path, messages=10, age=0.0)
    archive.open()
    archive.close(5.0)
    data = bytearray(path.read_bytes())
    data[4096:] = bytes(len(data) - 4096)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (foreign, "another program's database"),
        (newer, "format is 99"),
        (garbage, "not a database"),
        (damaged, "damaged"),
    ],
)
def test_a_history_file_that_cannot_be_used(
    look: Inspect, tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    path = tmp_path / "history.db"
    spoil(path)
    before = path.read_bytes()
    assert_fails(look(history=path)["history"], said, "another file")
    assert path.read_bytes() == before


def test_bans(look: Inspect, tmp_path: Path) -> None:
    path = tmp_path / "bans.json"
    path.write_text('{"bans": {}, "mutes": {}}')
    path.chmod(0o600)
    assert "0 bans, 0 mutes" in look(bans=path)["bans"].text
    path.write_text("{nonsense")
    assert_fails(look(bans=path)["bans"], "cannot read the bans", "mend the file")
    path.write_text("{}")
    path.chmod(0o666)
    assert_fails(look(bans=path)["bans"], "others may write", "chmod go-w")


def test_accounts(look: Inspect, tmp_path: Path) -> None:
    folder = tmp_path / "names"
    path = folder / "accounts.db"
    assert "no name is registered" in look(accounts=path)["accounts"].text
    with Accounts(path, create=True) as made:
        made.add("alice", Stored(COST, b"salt", b"hash"))
    before = tree(tmp_path)
    assert look(accounts=path)["accounts"].level is Level.OK
    assert tree(tmp_path) == before
    path.chmod(0o644)
    assert_fails(look(accounts=path)["accounts"], "others may read or write", "chmod 600")
    path.chmod(0o600)
    path.write_bytes(b"no database at all, but long enough to be looked at" * 10)
    assert_fails(look(accounts=path)["accounts"], "not a database")


def test_a_closed_chat_that_nobody_can_enter_is_warned_of(look: Inspect, tmp_path: Path) -> None:
    assert_warns(look(auth="closed")["accounts"], "nobody can come in", "mpchat user add")
    secret = tmp_path / "secret"
    secret.write_text("a long secret for a class\n")
    secret.chmod(0o600)
    assert look(auth="closed", secret=secret)["accounts"].level is Level.OK


@contextmanager
def another_user(uid: int) -> Iterator[None]:
    """Let this process act for another user, without the rights of root."""
    if os.geteuid() != 0:
        pytest.skip("only root can act for another user")
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


def test_what_this_user_may_not_reach_is_found_and_ends_nothing(look: Inspect, tmp_path: Path) -> None:
    look(history=tmp_path / "history.db")  # loads what the other user may not read
    tmp_path.chmod(0o700)
    with another_user(54_321):
        found = look(
            history=tmp_path / "history.db", log_file=tmp_path / "log", accounts=tmp_path / "accounts.db"
        )
    assert_fails(found["runtime folder"])
    for subject in ("history", "log", "accounts"):
        assert_fails(found[subject])
    assert "history.db" in found["history"].text


def test_a_file_of_another_user_is_found(look: Inspect, tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    garbage(path)
    path.chmod(0o644)
    with another_user(54_321), suppress(PermissionError):
        os.listdir(tmp_path)
        assert_fails(look(history=path)["history"], "no right to write")


# Certificate, key, secret.


def test_a_certificate(look: Inspect, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    chain, key = authority.issue("chat.test")
    found = look(tls_cert=chain, tls_key=key)["certificate"]
    assert (found.level, "for chat.test;" in found.text) == (Level.OK, True)
    _, other = authority.issue("chat.test", stem="other")
    assert_fails(look(tls_cert=chain, tls_key=other)["certificate"], "the key of another certificate")
    key.chmod(0o644)
    assert_fails(look(tls_cert=chain, tls_key=key)["certificate"], "others may read", "chmod 640")


def test_a_certificate_that_ends_soon_or_has_ended(look: Inspect, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    authority = Authority(tmp_path)
    chain, key = authority.issue("chat.test", not_after=now + timedelta(days=3, hours=1))
    assert_warns(look(tls_cert=chain, tls_key=key)["certificate"], "expires in 3 days", "renew it")
    begun, ended = now - timedelta(days=9), now - timedelta(days=1)
    chain, key = authority.issue("chat.test", not_before=begun, not_after=ended)
    assert look(tls_cert=chain, tls_key=key)["certificate"].level is Level.FAILURE


def test_a_chain_in_the_wrong_order_is_warned_of(look: Inspect, tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path), Authority(tmp_path)
    other, _ = stranger.issue("other.test", stem="other")
    chain, key = authority.issue("chat.test")
    chain.write_bytes(chain.read_bytes() + other.read_bytes())
    assert_warns(look(tls_cert=chain, tls_key=key)["certificate"], "certificate 2", "issuer")


def test_a_token_key_and_a_secret(look: Inspect, tmp_path: Path) -> None:
    assert_fails(look({}, jwt_key="env:MPCHAT_NO_KEY")["jwt_key"], "MPCHAT_NO_KEY")
    key = tmp_path / "key"
    key.write_text("x" * 40)
    key.chmod(0o600)
    assert "HS256" in look(jwt_key=key)["jwt_key"].text
    key.write_text("short")
    found = look(jwt_key=key)["jwt_key"]
    assert_fails(found, "too short")
    key.write_bytes(b"\xff\xfe" * 20)
    assert look(secret=key)["secret"].level is Level.FAILURE


def test_a_webhook(look: Inspect, tmp_path: Path) -> None:
    assert "hook" not in look()
    url = "https://me:비밀@hook.test/x?key=비밀"
    assert look(hook=url)["hook"].text == "events go to https://***@hook.test/x?***, and are not signed"
    assert_fails(look(hook=url, hook_secret="env:MPCHAT_NO_SECRET")["hook"], "MPCHAT_NO_SECRET")
    secret = tmp_path / "secret"
    secret.write_text("x" * 40)
    secret.chmod(0o600)
    assert look(hook=url, hook_secret=secret)["hook"].text.endswith(", signed")


# The network.


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_port_that_is_taken_is_named_with_its_holder(look: Inspect, taken: int) -> None:
    assert_fails(look(port=taken)["port"], f"127.0.0.1:{taken}", "another address of that port")


class ServiceManager:
    """Stands for systemd, which no test can be."""

    pid = 1

    def name(self) -> str:
        return "systemd"


def test_a_port_that_systemd_holds_for_a_service_is_no_fault(
    look: Inspect, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "holder", lambda port: ServiceManager())
    assert look(port=taken)["port"].level is Level.OK


def test_an_address_of_another_machine_and_a_name_of_none(look: Inspect) -> None:
    assert_fails(look(host="192.0.2.1")["port"], "no address of this machine", "--host")
    assert_fails(look(host="no.such.host.invalid")["port"], "no address of this machine", "--host")


def test_a_port_is_free_after_the_look_and_no_client_gets_in_meanwhile(
    look: Inspect, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listen(sock: socket.socket, backlog: int = 0) -> None:
        raise AssertionError("a client could connect")

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "listen", listen)
        assert look(port=port)["port"].text == f"127.0.0.1:{port} is free"
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_a_redis(look: Inspect, tmp_path: Path) -> None:
    redis = RedisServer(tmp_path / "redis", "maxmemory 100mb", "maxmemory-policy allkeys-lru")
    assert_fails(look(cluster=redis.url)["cluster"], "cannot be reached")
    redis.start()
    try:
        assert_fails(look(cluster=redis.url)["cluster"], "noeviction")
        redis.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        found = look(cluster=redis.url)["cluster"]
        assert (found.level, "can hold the log" in found.text) == (Level.OK, True)
        assert redis.ask("DBSIZE") == 0
        assert look(cluster=f"redis://:wrong@127.0.0.1:{redis.port}")["cluster"].level is Level.FAILURE
        assert "wrong" not in str(look(cluster=f"redis://:wrong@127.0.0.1:{redis.port}")["cluster"])
    finally:
        redis.stop()
