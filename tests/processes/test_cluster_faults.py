"""The shared log in a real Redis that is killed, stopped, cut off, full, locked, foreign or failed over."""

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trustme
from support.cutting_relay import CuttingRelay
from support.harness import free_port
from support.leftovers import nothing_left_behind
from support.redis_server import LOOPBACK, RedisServer, running_redis, running_replica, running_sentinel
from support.waiting import eventually

from mpchat.cluster.redis_store import RedisStore
from mpchat.cluster.store import (
    Batch,
    Place,
    RefusedError,
    RewoundError,
    Snapshot,
    StoreError,
    UnavailableError,
)
from mpchat.cluster_url import parse

NAME = "채팅"
LEASE = 60.0
START = Place("g1", 0, b"c0ffee", 0, 0.0, 0.0)
PARTS = ["상태".encode(), b"x" * 100_000]
# Seconds that a call may take beyond its own wait, with some for a busy machine.
CALL = 3.0
DURABLE = ("appendonly yes", "appendfsync always")


@contextmanager
def opened(url: str, password: str = "") -> Iterator[RedisStore]:
    store = RedisStore(parse(url), NAME, password)
    try:
        yield store
    finally:
        store.close()


def begin(store: RedisStore) -> int:
    """Begin the log, and return the epoch of its first host."""
    assert store.found(None, Snapshot(START, 1, PARTS))
    return store.register("g1", "서울", "i", 1, b"", LEASE).epoch


def append(store: RedisStore, *numbers: int, position: int = 0) -> list[int]:
    return store.append("g1", 1, position, LEASE, [(number, 1, b"%d" % number) for number in numbers])


def read(store: RedisStore) -> list[Batch]:
    return store.read(START, 0, 1 << 20)


def numbers(store: RedisStore) -> list[int]:
    return [batch.number for batch in read(store) if batch.kind == "batch"]


def end(store: RedisStore) -> Place:
    place = START
    for batch in read(store):
        place = place.after(batch)
    return place


@contextmanager
def within(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def wait_until_back(store: RedisStore) -> None:
    def is_back() -> bool:
        with suppress(UnavailableError):
            store.load()
            return True
        return False

    eventually(is_back, "Redis to be back")


def test_a_redis_that_is_killed_and_has_its_file_goes_on(tmp_path: Path) -> None:
    with running_redis(tmp_path, *DURABLE) as server, opened(server.url) as store:
        begin(store)
        assert append(store, 1, 2) == [2, 3]
        place = end(store)
        server.kill()
        for _ in range(2):
            with within(CALL), pytest.raises(UnavailableError, match=f"{server.port}"):
                append(store, 3)
        with within(CALL), pytest.raises(UnavailableError):
            store.read(place, 0.1, 1000)
        server.start()
        # Its scripts are gone too.
        assert append(store, 2, 3) == [0, 4]
        store.check(place)
        assert numbers(store) == [1, 2, 3]
        assert store.load() == Snapshot(START, 1, PARTS)


def test_a_redis_that_comes_back_empty_is_noticed_by_every_verb(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server, opened(server.url) as store:
        begin(store)
        append(store, 1)
        place = end(store)
        server.restart()
        with pytest.raises(RewoundError, match="empty"):
            append(store, 2)
        # For a connection that is open, and for a new one, which needs no wait.
        for wait in (0.2, 20.0):
            with within(CALL), pytest.raises(RewoundError, match="empty"):
                store.read(place, wait, 1000)
            with pytest.raises(RewoundError, match="empty"):
                store.check(place)
            store.close()
        assert store.load() is None
        assert store.open() is None
        assert store.found("g1", Snapshot(START._replace(generation="g2"), 1, PARTS))


def test_a_redis_that_is_rolled_back_is_noticed(tmp_path: Path) -> None:
    earlier = tmp_path / "earlier"
    with running_redis(tmp_path / "redis", *DURABLE) as server, opened(server.url) as store:
        begin(store)
        append(store, 1, 2)
        shutil.copytree(server.folder, earlier)
        append(store, 3, 4)
        place = end(store)
        server.kill()
        shutil.rmtree(server.folder)
        shutil.copytree(earlier, server.folder)
        server.start()
        with pytest.raises(RewoundError, match="ends at 3"):
            append(store, 5, position=5)
        with pytest.raises(RewoundError, match="from 3 up to 5"):
            append(store, 5)
        with within(CALL), pytest.raises(RewoundError, match="ends at 3"):
            store.read(place, 0.2, 1000)
        with pytest.raises(RewoundError, match="ends at 3"):
            store.check(place)
        # Another host has not read that far, and goes on: the positions are reached again, by other batches.
        with opened(server.url) as other:
            epoch = other.register("g1", "부산", "j", 1, b"", LEASE).epoch
            other.append("g1", epoch, 0, LEASE, [(number, 1, b"") for number in range(1, 4)])
        with pytest.raises(RewoundError, match="another batch is at 5"):
            store.check(place)
        with pytest.raises(RewoundError, match="another batch is at 5"):
            store.read(place, 0.2, 1000)


def test_a_redis_that_stands_still_delays_no_call_for_long(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server, opened(server.url) as store, opened(server.url) as reader:
        begin(store)
        append(store, 1)
        place = end(reader)
        with server.frozen():
            with within(CALL), pytest.raises(UnavailableError):
                append(store, 2)
            with within(CALL + 0.5), pytest.raises(UnavailableError):
                reader.read(place, 0.5, 1000)
            with within(CALL), pytest.raises(UnavailableError):  # no answer to the connection itself
                append(store, 2)
        wait_until_back(store)
        # Each call was done or not; the late answers are nobody's.
        assert append(store, 2) in ([0], [3])
        assert append(store, 3) == [4]
        assert numbers(reader) == [1, 2, 3]


def test_an_idle_connection_that_was_closed_is_replaced_unseen(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server, opened(server.url) as store:
        begin(store)
        for number in range(1, 4):
            server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            assert append(store, number) == [number + 1]
            server.ask("SCRIPT", "FLUSH")
        assert numbers(store) == [1, 2, 3]


@pytest.mark.parametrize("way", ["requests", "replies"])
def test_an_append_that_is_cut_anywhere_is_done_once_when_repeated(tmp_path: Path, way: str) -> None:
    with (
        running_redis(tmp_path) as server,
        CuttingRelay(server.port) as relay,
        opened(f"redis://{LOOPBACK}:{relay.port}") as store,
        opened(server.url) as reader,
    ):
        begin(store)
        batches = [(1, b"x" * 500), (2, b"y" * 500)]
        cuts = (0, 1, 2, 3, 5, 8, 13, 20, 40, 100, 300, 700, 1300) if way == "requests" else range(12)
        expected: list[int] = []
        for cut in cuts:
            store.close()  # so that no second attempt hides the cut
            wait_until_back(store)
            setattr(relay, f"{way}_left", cut)
            before = relay.cuts
            batch = [(number + len(expected), 1, text) for number, text in batches]
            # A connection that was open is tried once more within the call; a second cut is an error.
            for _ in range(10):
                try:
                    store.append("g1", 1, 0, LEASE, batch)
                    break
                except UnavailableError:
                    continue
            assert relay.cuts > before, cut
            expected += [number for number, _, _ in batch]
            assert numbers(reader) == expected
        assert [batch.position for batch in read(reader)] == list(range(1, 2 + len(expected)))


def test_a_lost_reply_is_told_when_the_connection_was_new(tmp_path: Path) -> None:
    with (
        running_redis(tmp_path) as server,
        CuttingRelay(server.port) as relay,
        opened(f"redis://{LOOPBACK}:{relay.port}") as store,
    ):
        begin(store)
        store.close()
        relay.replies_left = 20  # of what is said when it connects
        with pytest.raises(UnavailableError):
            append(store, 1)
        assert append(store, 1) == [2]


def test_a_snapshot_that_is_cut_is_whole_or_not_there(tmp_path: Path) -> None:
    with (
        running_redis(tmp_path) as server,
        CuttingRelay(server.port) as relay,
        opened(f"redis://{LOOPBACK}:{relay.port}") as store,
        opened(server.url) as direct,
    ):
        begin(direct)
        last = direct.load()
        for number, cut in enumerate((0, 50, 1000, 50_000, 100_200, 100_300, 100_700, 101_000), 1):
            append(direct, number)
            snapshot = Snapshot(end(direct), 1, [b"%d" % cut, b"x" * 100_000])
            wait_until_back(store)
            relay.requests_left = cut
            with suppress(UnavailableError):
                store.save(snapshot)
            relay.requests_left = None
            assert direct.load() in (last, snapshot)
            wait_until_back(store)
            store.save(snapshot)
            assert direct.load() == snapshot
            last = snapshot
            wait_until_back(store)
            relay.replies_left = cut
            with suppress(UnavailableError):
                assert store.load() == snapshot
            relay.replies_left = None
        # What was uploaded for nothing goes by itself.
        uploads = server.ask("KEYS", "*upload*")
        assert all(0 < server.ask("TTL", key) <= 120 for key in uploads)


def test_an_upload_whose_host_dies_goes_by_itself(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server, opened(server.url) as store:
        begin(store)
        key = store._upload(Snapshot(START, 1, [b"x" * (3 << 20)] * 3))
        assert server.ask("LLEN", key) == 3
        assert 0 < server.ask("TTL", key) <= 120
        # Those of a log that was begun stay.
        assert server.ask("TTL", f"{{mpchat:{NAME}}}:parts") == -1
        append(store, 1)
        store.save(Snapshot(end(store), 1, [b"new"]))
        assert server.ask("TTL", f"{{mpchat:{NAME}}}:parts") == -1


def test_many_bytes_go_in_several_portions(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server, opened(server.url) as store:
        begin(store)
        batches = [(number, 1, b"x" * 700_000) for number in range(1, 21)]
        assert store.append("g1", 1, 0, LEASE, batches) == list(range(2, 22))
        assert len(store.read(START, 0, 3_000_000)) == 5
        snapshot = Snapshot(
            end(store)._replace(position=1), 1, [b"%d" % n + b"y" * 700_000 for n in range(40)]
        )
        store.save(snapshot)
        assert store.load() == snapshot


def test_a_snapshot_that_is_replaced_while_it_is_loaded_is_loaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_redis(tmp_path) as server, opened(server.url) as store, opened(server.url) as other:
        begin(store)
        append(store, 1, 2)
        first, second = (START.after(batch) for batch in read(store)[:2])
        store.save(Snapshot(first, 1, [b"old"] * 40))
        newer = Snapshot(second, 1, [b"new"] * 40)
        ask = store._connection.ask

        def ask_late(*command: str | bytes | int | float, wait: float = 0.0, repeat: bool = True) -> object:
            answer = ask(*command, wait=wait, repeat=repeat)
            if command[0] == "LRANGE":
                other.save(newer)
            return answer

        monkeypatch.setattr(store._connection, "ask", ask_late)
        assert store.load() == newer


def test_a_read_waits_for_the_first_batch_and_no_longer(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server, opened(server.url) as store, opened(server.url) as reader:
        begin(store)
        place = end(reader)
        began = time.monotonic()
        assert reader.read(place, 0.3, 1000) == []
        assert 0.3 <= time.monotonic() - began < 0.3 + CALL
        found: list[Batch] = []
        thread = threading.Thread(target=lambda: found.extend(reader.read(place, 20.0, 1000)))
        with within(10.0):
            thread.start()
            eventually(lambda: server.info("clients")["blocked_clients"] == "1", "a reader that waits")
            append(store, 1)
            thread.join()
        assert [batch.number for batch in found] == [1]


def test_a_reader_that_waits_notices_at_once_that_redis_came_back_empty(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server, opened(server.url) as store, opened(server.url) as reader:
        begin(store)
        place = end(reader)
        errors: list[StoreError] = []

        def read_on() -> None:
            while not errors or not isinstance(errors[-1], RewoundError):
                try:
                    reader.read(place, 60.0, 1000)
                except StoreError as error:
                    errors.append(error)
                    time.sleep(0.01)

        thread = threading.Thread(target=read_on)
        with within(10.0):
            thread.start()
            eventually(lambda: server.info("clients")["blocked_clients"] == "1", "a reader that waits")
            # As an empty one that takes connections already.
            server.ask("FLUSHALL")
            server.ask("CLIENT", "KILL", "TYPE", "normal")
            thread.join()
        assert isinstance(errors[0], UnavailableError)


@pytest.mark.parametrize("password", ["", "틀린 비밀"])
def test_a_wrong_password_is_refused_and_not_shown(tmp_path: Path, password: str) -> None:
    with running_redis(tmp_path, "requirepass hunter2") as server:
        with opened(server.url, password) as store:
            with pytest.raises(RefusedError, match="cluster_password") as caught:
                store.open()
            assert ("(a password is needed)" in str(caught.value)) == (not password)
            assert "비밀" not in str(caught.value)
            # Later, a running server goes on trying.
            with pytest.raises(UnavailableError, match="cluster_password"):
                append(store, 1)
        with opened(server.url, "hunter2") as store:
            begin(store)
            assert append(store, 1) == [2]
            assert "hunter2" not in repr(store)
            server.password = "hunter2"
            server.kill()
            with pytest.raises(UnavailableError) as down:
                append(store, 2)
            assert "hunter2" not in str(down.value)


def test_a_password_that_redis_does_not_have_is_refused(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server, opened(server.url, "hunter2") as store:
        with pytest.raises(RefusedError, match=r"it has no password.*cluster_password") as caught:
            store.open()
        assert "hunter2" not in str(caught.value)


def test_a_user_without_rights_is_refused(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        server.ask("ACL", "SETUSER", "chat", "on", ">p", "~*", "+ping", "+hello")
        with opened(f"redis://chat:p@{LOOPBACK}:{server.port}") as store:
            with pytest.raises(RefusedError, match="info"):
                store.open()


def test_a_database_that_is_not_there_is_told(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server, opened(f"{server.url}/99") as store:
        with pytest.raises(RefusedError, match=r"/99 .*no such database.*see the settings cluster"):
            store.open()
        with pytest.raises(UnavailableError, match="no such database"):
            store.check(START)


def test_databases_and_names_are_apart(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server, opened(f"{server.url}/3") as third, opened(server.url) as store:
        begin(third)
        assert store.open() is None
        other = RedisStore(parse(f"{server.url}/3"), "다른 채팅")
        assert other.open() is None
        other.close()


def test_a_redis_that_evicts_is_refused(tmp_path: Path) -> None:
    with running_redis(tmp_path, "maxmemory 100mb", "maxmemory-policy allkeys-lru") as server:
        with opened(server.url) as store:
            with pytest.raises(RefusedError, match=r"allkeys-lru.*noeviction"):
                store.open()
            server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
            assert store.open() is None
            server.ask("CONFIG", "SET", "maxmemory", "0", "maxmemory-policy", "allkeys-lru")
            assert store.open() is None


def test_a_redis_that_is_too_old_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_redis(tmp_path) as server, opened(server.url) as store:
        monkeypatch.setattr("mpchat.cluster.redis_store.OLDEST_REDIS", (99, 0))
        with pytest.raises(RefusedError, match=r"has version [0-9.]+: 6\.2 or newer is needed"):
            store.open()


@pytest.mark.parametrize("command", ["SET", "HSET", "RPUSH", "XADD", "ZADD"])
@pytest.mark.parametrize(
    "what", ["head", "log", "hosts", "leases", "numbers", "positions", "parts", "snapshot"]
)
def test_a_foreign_key_is_refused_and_left_alone(redis_server: RedisServer, what: str, command: str) -> None:
    key = f"{{mpchat:{NAME}}}:{what}"
    rest = {"HSET": ["a", "1"], "XADD": ["*", "a", "1"], "ZADD": ["1", "a"]}.get(command, ["a"])
    redis_server.ask("FLUSHALL")
    redis_server.ask(command, key, *rest)
    before = redis_server.ask("DUMP", key)
    with opened(redis_server.url) as store:
        with pytest.raises(RefusedError, match="choose another cluster_name") as caught:
            store.open()
        assert key in str(caught.value)
    assert redis_server.ask("DUMP", key) == before


def test_a_log_of_another_format_is_refused(redis_server: RedisServer) -> None:
    redis_server.ask("FLUSHALL")
    with opened(redis_server.url) as store:
        begin(store)
        assert store.open() is not None
        redis_server.ask("HSET", f"{{mpchat:{NAME}}}:head", "format", "2")
        with pytest.raises(RefusedError, match="format 2"):
            store.open()


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


def test_a_redis_without_memory_takes_nothing_by_halves(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server, opened(server.url) as store:
        begin(store)
        append(store, 1)
        server.ask("CONFIG", "SET", "maxmemory", "1mb")
        for _ in range(2):
            with pytest.raises(UnavailableError, match="raise its maxmemory"):
                append(store, 2)
        with pytest.raises(UnavailableError, match="raise its maxmemory"):
            store.register("g1", "부산", "j", 1, b"", LEASE)
        with pytest.raises(UnavailableError, match="raise its maxmemory"):
            store.save(Snapshot(end(store), 1, PARTS))
        with pytest.raises(UnavailableError, match="raise its maxmemory"):
            store.found("g1", Snapshot(START._replace(generation="g2"), 1, PARTS))
        with pytest.raises(UnavailableError, match="raise its maxmemory"):
            store.leave("g1", 1)
        assert store.load() == Snapshot(START, 1, PARTS)
        server.ask("CONFIG", "SET", "maxmemory", "0")
        assert append(store, 1, 2) == [0, 3]
        assert store.register("g1", "부산", "j", 1, b"", LEASE) == (2, 4)


def test_a_redis_that_cannot_save_is_told(tmp_path: Path) -> None:
    with running_redis(tmp_path / "gone") as server, opened(server.url) as store:
        begin(store)
        server.ask("CONFIG", "SET", "save", "3600 1000000")
        shutil.rmtree(server.folder)
        server.ask("BGSAVE")
        eventually(lambda: server.info("persistence")["rdb_last_bgsave_status"] == "err", "a save that fails")
        with pytest.raises(UnavailableError, match="free space there"):
            append(store, 1)
        server.ask("CONFIG", "SET", "save", "")
        assert append(store, 1) == [2]


def test_a_redis_with_too_few_replicas_is_told(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server, opened(server.url) as store:
        begin(store)
        server.ask("CONFIG", "SET", "min-replicas-to-write", "1")
        with pytest.raises(UnavailableError, match="min-replicas-to-write"):
            append(store, 1)
        server.ask("CONFIG", "SET", "min-replicas-to-write", "0")
        assert append(store, 1) == [2]


def test_a_replica_is_told(tmp_path: Path) -> None:
    with running_redis(tmp_path / "a") as master, opened(master.url) as store:
        begin(store)
        with running_replica(tmp_path / "b", master) as replica, opened(replica.url) as other:
            with pytest.raises(UnavailableError, match="is a replica and takes no writes"):
                other.register("g1", "부산", "j", 1, b"", LEASE)
            # A master that becomes a replica while a host reads from it.
            master.ask("REPLICAOF", LOOPBACK, replica.port)
            with pytest.raises(UnavailableError, match="replica"):
                append(store, 1)
            replica.ask("CONFIG", "SET", "replica-serve-stale-data", "no")
            master.kill()
            eventually(
                lambda: replica.info("replication")["master_link_status"] == "down", "the replica to notice"
            )
            with pytest.raises(UnavailableError, match="replica that has lost its master"):
                other.load()


def test_a_redis_that_loads_is_told(tmp_path: Path) -> None:
    with running_redis(tmp_path, *DURABLE) as server, opened(server.url) as store:
        begin(store)
        append(store, *range(1, 40))
        # Four seconds of loading, in which Redis answers after each of these.
        for number in range(200):
            server.ask("SET", f"large {number}", "가" * 1000)
        server.ask("BGREWRITEAOF")
        eventually(
            lambda: (
                int(server.info("persistence")["aof_base_size"]) > 1000
                and server.info("persistence")["aof_rewrite_in_progress"] == "0"
            ),
            "a file of keys",
        )
        server.kill()
        # Microseconds for each key's record that it loads.
        server.options = (
            *server.options,
            "key-load-delay 20000",
            "loading-process-events-interval-bytes 1024",
        )
        starting = threading.Thread(target=server.start)
        starting.start()
        try:
            texts = set()

            def is_loading() -> bool:
                try:
                    append(store, 40)
                except UnavailableError as error:
                    texts.add(str(error))
                return any("still loading" in each for each in texts)

            eventually(is_loading, "Redis to say that it loads")
        finally:
            starting.join()
        wait_until_back(store)
        assert append(store, 40) in ([0], [41])


SERVICE = "우리"


def test_a_failover_to_a_replica_that_lacks_the_last_entries_is_noticed(tmp_path: Path) -> None:
    with (
        running_redis(tmp_path / "a") as master,
        running_replica(tmp_path / "b", master) as replica,
        running_sentinel(tmp_path / "s", master, SERVICE) as sentinel,
        # The first one is no Sentinel, and is passed over.
        opened(f"redis+sentinel://{LOOPBACK}:{free_port()},{LOOPBACK}:{sentinel}/{SERVICE}") as store,
        opened(f"redis+sentinel://{LOOPBACK}:{sentinel}/{SERVICE}") as reader,
    ):
        assert store.open() is None
        begin(store)
        append(store, 1, 2)
        eventually(
            lambda: (
                replica.info("replication")["slave_repl_offset"]
                == master.info("replication")["master_repl_offset"]
            ),
            "the replica to have all",
        )
        with replica.frozen():
            master.ask("CLIENT", "KILL", "TYPE", "replica")
            assert append(store, 3, 4) == [4, 5]
            place = end(reader)
            master.kill()
        with within(CALL), pytest.raises(UnavailableError):
            append(store, 5, position=5)
        errors: list[str] = []

        def is_noticed() -> bool:
            try:
                append(store, 5, position=5)
            except UnavailableError as error:
                errors.append(str(error))
                return False
            except RewoundError as error:
                errors.append(str(error))
                return True
            return False

        eventually(is_noticed, "the failover")
        assert "ends at 3" in errors[-1]
        with pytest.raises(RewoundError, match="ends at 3"):
            reader.check(place)
        with pytest.raises(RewoundError, match="ends at 3"):
            reader.read(place, 0.2, 1000)
        # What the replica has goes on.
        assert append(store, 3) == [4]
        assert numbers(reader) == [1, 2, 3]


def test_sentinels_that_do_not_help_are_told(tmp_path: Path) -> None:
    dead = free_port()
    with (
        running_redis(tmp_path / "a") as master,
        running_replica(tmp_path / "b", master),
        running_sentinel(tmp_path / "s", master, SERVICE) as sentinel,
        opened(f"redis+sentinel://{LOOPBACK}:{dead},{LOOPBACK}:{sentinel}/없음") as store,
    ):
        with within(CALL), pytest.raises(UnavailableError) as caught:
            store.open()
        assert f"{LOOPBACK}:{dead}" in str(caught.value)
        assert f"{LOOPBACK}:{sentinel}: knows no master '없음'" in str(caught.value)


def test_a_sentinel_that_still_names_the_old_master_is_not_believed(tmp_path: Path) -> None:
    with (
        running_redis(tmp_path / "a") as master,
        running_replica(tmp_path / "b", master) as replica,
        running_sentinel(tmp_path / "s", master, SERVICE) as sentinel,
        opened(f"redis+sentinel://{LOOPBACK}:{sentinel}/{SERVICE}") as store,
    ):
        begin(store)
        store.close()
        master.ask("REPLICAOF", LOOPBACK, replica.port)
        with nothing_left_behind(), pytest.raises(UnavailableError, match="no master"):
            store.load()


def test_a_sentinel_that_asks_for_a_password_gets_it(tmp_path: Path) -> None:
    with (
        running_redis(tmp_path / "a") as master,
        running_replica(tmp_path / "b", master),
        running_sentinel(tmp_path / "s", master, SERVICE, "requirepass hunter2") as sentinel,
    ):
        master.ask("CONFIG", "SET", "requirepass", "hunter2")
        url = f"redis+sentinel://{LOOPBACK}:{sentinel}/{SERVICE}"
        with opened(url, "hunter2") as store:
            assert store.open() is None
            begin(store)
        for password in ("", "비밀"):
            with (
                opened(url, password) as store,
                pytest.raises(UnavailableError, match="no Sentinel") as caught,
            ):
                store.open()
            assert "비밀" not in str(caught.value)


def tls_options(folder: Path, port: int) -> tuple[str, ...]:
    """Issue a certificate into ``folder``, and return what lets a server use it on a port."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate = authority.issue_cert("localhost", LOOPBACK)
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    return (
        f"tls-port {port}",
        f"tls-cert-file {folder / 'cert.pem'}",
        f"tls-key-file {folder / 'key.pem'}",
        f"tls-ca-cert-file {folder / 'ca.pem'}",
        "tls-auth-clients no",
    )


def test_sentinels_and_redis_are_reached_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port, sentinel = free_port(), free_port()
    options = tls_options(tmp_path, port)
    others = (f"tls-port {sentinel}", *options[1:], "tls-replication yes")
    with (
        running_redis(tmp_path / "a", *options) as master,
        running_replica(tmp_path / "b", master),
        running_sentinel(tmp_path / "s", master, SERVICE, *others, watched=port),
        opened(f"rediss+sentinel://{LOOPBACK}:{sentinel}/{SERVICE}") as store,
    ):
        with pytest.raises(UnavailableError, match=r"(?i)certificate"):
            store.open()
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        assert store.open() is None
        begin(store)


def test_tls_is_used_and_the_certificate_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    options = tls_options(tmp_path, port)
    with running_redis(tmp_path / "redis", *options), opened(f"rediss://localhost:{port}") as store:
        with pytest.raises(UnavailableError, match=r"(?i)certificate"):
            store.open()
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        assert store.open() is None
        begin(store)
        assert append(store, 1) == [2]


def test_an_address_without_a_server_is_told() -> None:
    with opened(f"redis://{LOOPBACK}:{free_port()}") as store:
        with within(CALL), pytest.raises(UnavailableError, match=r"cannot be reached"):
            store.open()
    with opened("redis://없는-호스트.invalid") as store:
        with pytest.raises(UnavailableError, match=r"cannot be reached"):
            store.open()


def test_a_server_that_is_no_redis_is_told() -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:

        def answer() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(1000)
                client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                client.recv(1000)

        thread = threading.Thread(target=answer)
        thread.start()
        with opened(f"redis://{LOOPBACK}:{listener.getsockname()[1]}") as store:
            with within(CALL), pytest.raises(UnavailableError, match="HTTP"):
                store.open()
        thread.join()


@pytest.mark.parametrize(
    ("scheme", "why"),
    [("redis", "another program listens there"), ("rediss", "without TLS there, it is redis://")],
)
def test_a_server_that_never_answers_may_be_another_one(scheme: str, why: str) -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        where = f"{LOOPBACK}:{listener.getsockname()[1]}"
        with opened(f"{scheme}://{where}") as store:
            with within(CALL), pytest.raises(UnavailableError, match=f"{where} cannot be reached: .*{why}"):
                store.open()


def test_a_redis_without_tls_is_told_from_one_with(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server, opened(f"rediss://{LOOPBACK}:{server.port}") as store:
        with within(CALL), pytest.raises(UnavailableError) as caught:
            store.open()
        assert "without TLS there, it is redis://" in str(caught.value)


def test_no_descriptor_stays_after_any_failure(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        with opened(server.url) as store:
            begin(store)
        with nothing_left_behind():
            with opened(server.url) as store:
                epoch = store.register("g1", "부산", "j", 1, b"", LEASE).epoch
                store.append("g1", epoch, 0, LEASE, [(1, 1, b"1")])
                with pytest.raises(RewoundError):
                    store.check(START._replace(position=99))
                with pytest.raises(RewoundError):
                    store.append("g9", 1, 0, LEASE, [])
            server.kill()
            with opened(server.url) as store, pytest.raises(UnavailableError):
                append(store, 1)
