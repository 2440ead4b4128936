"""The configurations of the manual's page on hosts, as they stand there, with the real programs."""

import os
import shlex
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import click
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from support.harness import Client, free_port, running
from support.manual import blocks, page
from support.programs import require
from support.tls import Authority
from support.waiting import PATIENCE, eventually
from websockets.sync.client import connect

from mpchat.cli.commands import main
from mpchat.cluster.redis_store import RedisStore
from mpchat.cluster.store import Place, Snapshot, StoreError
from mpchat.cluster_url import parse
from mpchat.config import check_together, parse_file, resolve

pytestmark = pytest.mark.one_python

PAGE = page("hosts")
LOOPBACK = "127.0.0.1"
REDIS, REPLICAS, REPLICA, WITH_TLS = blocks(PAGE, "redis")
[SENTINEL] = blocks(PAGE, "sentinel")
[HAPROXY] = blocks(PAGE, "haproxy")
[RIGHTS] = blocks(PAGE, "redis-acl")
PASSWORD = "change-me"


@contextmanager
def program(folder: Path, *command: str | Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a server that writes into ``folder``."""
    with (folder / "output").open("ab") as output:
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=folder,
            stdout=output,
            stderr=output,
            env={"PATH": "/usr/sbin:/usr/bin:/bin"},
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# mpchat.


def test_the_settings_of_the_page_go_together() -> None:
    [settings] = blocks(PAGE, "toml")
    config, _ = resolve([parse_file(settings, "mpchat.toml")])
    check_together(config)
    assert config.cluster == "redis+sentinel://10.0.0.21,10.0.0.22,10.0.0.23/chat"


def test_the_commands_of_the_page_are_commands() -> None:
    lines = [line for block in blocks(PAGE, "sh") for line in block.splitlines() if line.startswith("mpchat")]
    assert len(lines) == 10
    for line in lines:
        _, name, *words = shlex.split(line)
        main.commands[name].make_context(name, words, parent=click.Context(main))


# haproxy.


def test_haproxy_takes_the_configuration_without_a_warning(folder: Path) -> None:
    require("haproxy")
    (folder / "haproxy.cfg").write_text(HAPROXY)
    done = subprocess.run(
        ["haproxy", "-c", "-dW", "-f", str(folder / "haproxy.cfg")],
        env={"PATH": "/usr/sbin:/usr/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def checks(path: Path) -> dict[str, str]:
    """Return how the last check of each host ended, as haproxy says it."""
    with suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(str(path))
        sock.sendall(b"show stat\n")
        with sock.makefile() as stream:
            head, *rows = stream.read().lstrip("# ").splitlines()
        columns = head.split(",")
        found = [dict(zip(columns, row.split(","), strict=True)) for row in rows if row]
        return {
            each["svname"]: f"{each['status'].split()[0]} {each['check_status'].lstrip('* ')}"
            for each in found
            if each["pxname"] == "hosts" and each["svname"] != "BACKEND"
        }
    return {}


def test_all_kinds_of_clients_come_by_one_port_to_a_host_that_takes_them(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    require("haproxy")
    folder = tmp_path_factory.mktemp("haproxy")
    authority = Authority(folder)
    chain, key = authority.issue("localhost", LOOPBACK)
    flags = ("--proxy-from", LOOPBACK, "--tls-cert", str(chain), "--tls-key", str(key))
    folders = [folder / "1", folder / "2"]
    for each in folders:
        each.mkdir()
    with ExitStack() as stack:
        first = stack.enter_context(running(folders[0], *flags, "--max-connections", "4", workers=1))
        second = stack.enter_context(running(folders[1], *flags, workers=1))
        ports = [first.address[1], second.address[1], free_port()]
        text, front = HAPROXY, free_port()
        for number, port in enumerate(ports, 1):
            text = replaced(text, f"10.0.0.1{number}:4000", f"{LOOPBACK}:{port}")
        text = replaced(text, "bind :4000", f"bind {LOOPBACK}:{front}")
        text = replaced(text, "inter 2s", "inter 300ms")
        text = replaced(text, "maxconn 40000", f"maxconn 400\n    stats socket {folder}/stats")
        (folder / "haproxy.cfg").write_text(text)
        stack.enter_context(program(folder, "haproxy", "-db", "-f", folder / "haproxy.cfg"))
        taken = {"chat-1": "UP L7OK", "chat-2": "UP L7OK", "chat-3": "DOWN L4CON"}
        eventually(lambda: checks(folder / "stats") == taken, "haproxy to know the hosts that are there")

        clients = [stack.enter_context(Client((LOOPBACK, front), source="127.0.0.31")) for _ in range(4)]
        for client in clients[1::2]:
            client.sock = authority.context().wrap_socket(client.sock, server_hostname="localhost")
        for number, client in enumerate(clients):
            client.say(f"안녕 {number}")
            client.hear_until(f"안녕 {number}")
        # Others fill the first host. It gets no more, and what it has stays.
        for _ in range(2):
            eventually(lambda: _entered(stack, first.address), "another client to enter the first host")
        eventually(
            lambda: "DOWN" in checks(folder / "stats").get("chat-1", ""), "haproxy to see that it is full"
        )
        address = f"ws://{LOOPBACK}:{front}/ws"
        with connect(address, sock=Client((LOOPBACK, front), source="127.0.0.32").sock) as web:
            web.send('{"message":"웹"}')
            while "웹" not in str(web.recv(PATIENCE)):
                pass
            assert first.status()["connections"] == 4
            # A check is a connection too.
            eventually(lambda: second.status()["connections"] == 3, "the others to be with the second host")
        for number, client in enumerate(clients):
            client.say(f"아직 {number}")
            client.hear_until(f"아직 {number}")
        # Clients are known by their own addresses: a ban of one is not one of haproxy.
        assert second.run("ban", "127.0.0.31").stdout.count("2 connections ended") == 1


def _entered(stack: ExitStack, address: tuple[str, int]) -> bool:
    """Connect past haproxy; its checks are connections too, and may take the last place for a moment."""
    client = Client(address, source="127.0.0.33")
    client.say("옆문")
    if (heard := client.receive()) is None or "error" in heard:
        client.close()
        return False
    stack.enter_context(client)
    return True


# Redis.


def replaced(text: str, what: str, by: str) -> str:
    assert what in text
    return text.replace(what, by)


def with_port(text: str, folder: Path, port: int) -> str:
    """Return a configuration for this machine."""
    text = replaced(replaced(text, "bind 10.0.0.21", f"bind {LOOPBACK}"), "/var/lib/redis", str(folder))
    return replaced(text, "\nport 6379" if "\nport 6379" in text else "\nport 26379", f"\nport {port}")


def asked(port: int, *command: str, password: str | None = PASSWORD) -> Any:
    """Return an answer of Redis or of a Sentinel; None while there is none."""
    once = Retry(NoBackoff(), 0)
    with redis.Redis(LOOPBACK, port, password=password, decode_responses=True, retry=once) as client:
        try:
            return client.execute_command(*command)
        except redis.AuthenticationError:
            raise
        except redis.ConnectionError:
            return None


def write(port: int, value: str) -> Any:
    return asked(port, "XADD", "한글", "*", "k", value)


@contextmanager
def redis_server(folder: Path, text: str, port: int) -> Iterator["subprocess.Popen[bytes]"]:
    folder.mkdir(exist_ok=True)
    (folder / "redis.conf").write_text(with_port(text, folder, port))
    with program(folder, "redis-server", folder / "redis.conf") as process:
        eventually(lambda: asked(port, "PING"), f"Redis to answer: {folder}")
        yield process


def test_one_redis_keeps_what_it_has_answered_over_a_kill_and_removes_no_key(folder: Path) -> None:
    require("redis-server")
    port = free_port()
    with redis_server(folder / "one", REDIS, port) as process:
        assert asked(port, "CONFIG", "GET", "maxmemory-policy")["maxmemory-policy"] == "noeviction"
        assert write(port, "남음")
        process.kill()
        process.wait()
    with redis_server(folder / "one", REDIS, port):
        assert asked(port, "XLEN", "한글") == 1
        with pytest.raises(redis.AuthenticationError):
            asked(port, "PING", password=None)


def test_a_user_with_the_rights_of_the_page_can_do_all_that_a_host_does(folder: Path) -> None:
    require("redis-server")
    port = free_port()
    begin = Place("g1", 0, b"c0ffee", 0, 0.0, 0.0)
    with redis_server(folder / "one", REDIS, port), ExitStack() as stack:
        asked(port, "ACL", "SETUSER", *replaced(RIGHTS, "user ", "").split())
        url = parse(f"redis://mpchat:{PASSWORD}@{LOOPBACK}:{port}")
        store, other = (stack.enter_context(closing(RedisStore(url, name))) for name in ("chat", "남"))
        assert store.open() is None
        assert store.found(None, Snapshot(begin, 1, [b"x"]))
        epoch = store.register("g1", "서울", "i", 1, b"", 60.0).epoch
        assert store.append("g1", epoch, 0, 60.0, [(1, 1, b"1")]) == [2]
        place = begin
        for batch in store.read(begin, 0.1, 1000):
            place = place.after(batch)
        store.check(place)
        store.save(Snapshot(place, 1, [b"y"]))
        assert store.load() == Snapshot(place, 1, [b"y"])
        store.leave("g1", epoch)
        assert store.stand("g1", place, "서울").answer == "wait"
        with redis.Redis(LOOPBACK, port, username="mpchat", password=PASSWORD) as client:
            assert client.role()[0] == b"master"  # asked when Sentinels have named it
        # Keys of others are not for it.
        with pytest.raises(StoreError, match="permission"):
            other.open()


def test_a_replica_takes_over_and_a_master_without_replicas_does_not_write(folder: Path) -> None:
    require("redis-server", "redis-sentinel")
    ports, sentinels = [free_port() for _ in range(3)], [free_port() for _ in range(3)]
    replica = replaced(REPLICA, "10.0.0.21 6379", f"{LOOPBACK} {ports[0]}")
    with ExitStack() as stack:
        master = stack.enter_context(redis_server(folder / "1", REDIS + REPLICAS, ports[0]))
        with pytest.raises(redis.ResponseError, match="NOREPLICAS"):
            write(ports[0], "없음")
        for number in (1, 2):
            text = REDIS + REPLICAS + replica
            stack.enter_context(redis_server(folder / str(number + 1), text, ports[number]))
        eventually(lambda: _tries_to_write(ports[0], "남음"), "the master to write")
        for number, port in enumerate(sentinels):
            place = folder / f"sentinel {number}"
            place.mkdir()
            text = replaced(SENTINEL, "10.0.0.21 6379", f"{LOOPBACK} {ports[0]}")
            text = replaced(text, "chat 5000", "chat 500")
            (place / "sentinel.conf").write_text(with_port(text, Path(f'"{place}"'), port))
            stack.enter_context(program(place, "redis-sentinel", place / "sentinel.conf"))
        eventually(lambda: all(map(_knows_all, sentinels)), "the Sentinels to know each other")
        eventually(lambda: asked(ports[1], "XLEN", "한글") == 1, "the replica to have it")
        os.kill(master.pid, signal.SIGKILL)
        master.wait()
        port = eventually(lambda: _other_master(sentinels[0], ports[0]), "another master")
        eventually(lambda: _tries_to_write(port, "더"), "the other one to write")
        assert asked(port, "XLEN", "한글") == 2


def _tries_to_write(port: int, value: str) -> Any:
    with suppress(redis.ResponseError):
        return write(port, value)
    return None


def _knows_all(sentinel: int) -> bool:
    """Return whether a Sentinel can vote: it knows both replicas and both other Sentinels."""
    if asked(sentinel, "PING", password=None) is None:
        return False
    known = asked(sentinel, "INFO", "sentinel", password=None)["master0"]
    return (int(known["slaves"]), int(known["sentinels"])) == (2, 3)


def _other_master(sentinel: int, before: int) -> int | None:
    _, port = asked(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "chat", password=None)
    return int(port) if int(port) != before else None


def test_redis_with_tls_is_checked_by_the_file_that_the_page_names(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require("redis-server")
    authority, port = Authority(folder), free_port()
    chain, key = authority.issue("localhost")
    authority._authority.cert_pem.write_to_path(folder / "ca.pem")
    text = replaced(replaced(REDIS, "port 6379\n", ""), "bind 10.0.0.21", f"bind {LOOPBACK}")
    text = replaced(text, "/var/lib/redis", str(folder)) + replaced(
        WITH_TLS, "tls-port 6379", f"tls-port {port}"
    )
    for named, path in (("redis.pem", chain), ("redis.key", key), ("ca.pem", folder / "ca.pem")):
        text = replaced(text, f"/etc/redis/{named}", str(path))
    (folder / "redis.conf").write_text(text)

    def answers() -> bool:
        once = Retry(NoBackoff(), 0)
        with redis.Redis("localhost", port, password=PASSWORD, ssl=True, retry=once) as client:
            return bool(client.ping())

    with program(folder, "redis-server", folder / "redis.conf"):
        eventually(lambda: _listens(port), "Redis to listen")
        with pytest.raises(redis.ConnectionError, match="certificate verify failed"):
            answers()
        monkeypatch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))
        assert answers()


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection((LOOPBACK, port), PATIENCE):
        return True
    return False
