"""Redis store: the shared log in one Redis stream, kept by scripts that Redis runs.

Each verb that changes something is one script, so that it is done wholly or not at all. All keys of a log
have one hash tag, ``{mpchat:NAME}``, and so are in one slot. What each key holds stands in
``scripts/common.lua``.

The rule it keeps: everything can be repeated. A repeated batch is dropped by its number, and a repeated
registration ends the first. So an answer that was lost costs nothing but the repetition.
"""

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files
from typing import Any

import redis

from mpchat.cluster.redis_connection import Argument, DeniedError, RedisConnection
from mpchat.cluster.store import (
    STAND_TIME,
    Batch,
    FencedError,
    Place,
    RefusedError,
    Registered,
    RewoundError,
    Snapshot,
    Standing,
    StoreError,
    TrimmedError,
    UnavailableError,
    chained,
)
from mpchat.cluster_url import ClusterUrl

# The form of the keys; raised when it changes.
FORMAT = "1"
# XTRIM with MINID came with it.
OLDEST_REDIS = (6, 2)
# Bytes of payload and number of batches that a slow host may keep from being trimmed. With its description
# and the stream's own overhead a batch takes some 200 bytes more, so a log is at most about 85 MB. A host
# that is further behind loads the snapshot, which is faster than to apply that much.
KEPT = 64 << 20
KEPT_BATCHES = 100_000
# Bytes that are sent to Redis, or asked from it, in one go: a few milliseconds of it, within PATIENCE.
PORTION = 4 << 20
# Parts of a snapshot that are asked for at once.
PARTS_AT_ONCE = 16
# Batches that are asked for at once, at most and before any was seen.
MOST_BATCHES, FIRST_BATCHES = 1000, 100
# Seconds until Redis drops what a host has uploaded of a snapshot before it died.
UPLOAD_KEPT = 120
# Milliseconds after which a host that stopped to state its position is no candidate any more.
STANDS = 3000
# Tries to load a snapshot while others replace it.
LOAD_TRIES = 5

_SNAPSHOT = ("generation", "position", "chain", "total", "time", "at", "version", "parts")
_HEAD = ("generation", "position", "trimmed", "trimmed_chain")
_COMMON = ("head", "log", "hosts", "leases", "numbers", "positions", "stand")
_TYPES = {
    "head": b"hash",
    "log": b"stream",
    "hosts": b"hash",
    "leases": b"zset",
    "numbers": b"hash",
    "positions": b"zset",
    "snapshot": b"hash",
    "parts": b"list",
    "stand": b"hash",
}


class _Script:
    """A script with what all of them share before it."""

    def __init__(self, name: str) -> None:
        folder = files("mpchat.cluster").joinpath("scripts")
        self.source = "".join(folder.joinpath(f"{each}.lua").read_text("utf-8") for each in ("common", name))
        # Redis names scripts by it.
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


class RedisStore:
    """A store in one Redis. It connects when it is used, and again after each failure."""

    def __init__(self, url: ClusterUrl, name: str, password: str = "") -> None:
        """Touch nothing yet. ``name`` tells several chats in one Redis apart.

        ``password`` is one that was kept apart from the URL; empty: none.
        """
        self._url = url
        self._name = name
        self._connection = RedisConnection(url, password)
        self._scripts: dict[str, _Script] = {}
        # Tells this store's registrations from those of others: a log that was rolled back may give an epoch
        # twice.
        self._owner = secrets.token_hex(8)
        # Bytes of a batch on average, as last read.
        self._average = 0.0

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._url)!r}, {self._name!r})"

    def open(self) -> Snapshot | None:
        """See :meth:`mpchat.cluster.store.Store.open`."""
        with self._refusals():
            self._check_usable()
            return self.load()

    def look(self) -> str:
        """Return the version of a Redis that can hold the log, and change nothing.

        Raise UnavailableError or RefusedError.
        """
        with self._refusals():
            return self._check_usable()

    def _check_usable(self) -> str:
        server = _fields(self._connection.ask("INFO", "server"))
        self._check_server(server)
        self._check_memory(_fields(self._connection.ask("INFO", "memory")))
        self._check_keys()
        return server.get("redis_version", "")

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Turn what Redis refuses into one line."""
        try:
            yield
        except DeniedError as error:
            raise RefusedError(self._denied(error)) from None
        except redis.ResponseError as error:
            raise RefusedError(f"Redis at {self._url} cannot be used: {error}") from None

    def register(
        self, place_generation: str, name: str, instance: str, version: int, info: bytes, lease: float
    ) -> Registered:
        """See :meth:`mpchat.cluster.store.Store.register`."""
        what, *rest = self._run(
            "register", (), place_generation, name, instance, version, info, _milliseconds(lease), self._owner
        )
        if what == b"named":
            raise RefusedError(
                f"host_name {name!r} is taken by another living host; choose another host_name. "
                f"If that host is dead, start again in {int(rest[0]) / 1000:.0f} s, when its lease is over"
            )
        if what == b"version":
            raise RefusedError(
                f"this host writes entries of version {version} and the host {rest[0].decode()!r} those of "
                f"version {rest[1]}: update mpchat in steps of one version"
            )
        self._raise_refusal(what, rest)
        return Registered(*rest)

    def append(
        self, generation: str, epoch: int, position: int, lease: float, batches: list[tuple[int, int, bytes]]
    ) -> list[int]:
        """See :meth:`mpchat.cluster.store.Store.append`.

        More than :data:`PORTION` bytes go in several calls; an error may come after some of them were done.
        """
        positions: list[int] = []
        for portion in _portions(batches):
            what, *rest = self._run(
                "append",
                (),
                generation,
                epoch,
                position,
                _milliseconds(lease),
                self._owner,
                *(field for batch in portion for field in batch),
            )
            self._raise_refusal(what, rest)
            positions += rest[0]
        return positions

    def leave(self, generation: str, epoch: int) -> None:
        """See :meth:`mpchat.cluster.store.Store.leave`."""
        what, *rest = self._run("leave", (), generation, epoch, self._owner)
        self._raise_refusal(what, rest)

    def read(self, place: Place, wait: float, most: int) -> list[Batch]:
        """See :meth:`mpchat.cluster.store.Store.read`.

        The log is checked when nothing came and when something else came than what follows ``place``.
        """
        if not self._connection.is_open:
            # Redis may be another one, or have lost something: nothing would come then until others append.
            self.check(place)
        count = max(1, min(MOST_BATCHES, int(most / self._average))) if self._average else FIRST_BATCHES
        block = ("BLOCK", max(1, _milliseconds(wait))) if wait > 0 else ()
        # Not repeated on a new connection, which would wait without the check before it.
        answer = self._ask(
            *("XREAD", "COUNT", count, *block, "STREAMS", self._key("log"), f"{place.position}-0"),
            wait=wait,
            repeat=False,
        )
        if not answer:
            self.check(place)
            return []
        entries = answer[0][1]
        sizes = [len(fields[3]) for _, fields in entries]
        self._average = max(1.0, sum(sizes) / len(sizes))
        batches: list[Batch] = []
        size = 0
        for (identity, fields), length in zip(entries, sizes, strict=True):
            size += length
            if batches and size > most:
                break
            batch = _batch(identity, fields)
            self._check_follows(place, batch)
            batches.append(batch)
            place = place.after(batch)
        return batches

    def check(self, place: Place) -> None:
        """See :meth:`mpchat.cluster.store.Store.check`."""
        identity = f"{place.position}-0"
        # In one go, so that nothing is trimmed or begun in between.
        *_, (head, entries) = self._ask_all(
            [
                ("MULTI",),
                ("HMGET", self._key("head"), *_HEAD),
                ("XRANGE", self._key("log"), identity, identity),
                ("EXEC",),
            ]
        )
        generation, position, trimmed, chain = head
        if generation is None:
            raise RewoundError("the log is empty")
        if generation.decode() != place.generation:
            raise RewoundError("another log has been begun")
        if int(position) < place.position:
            raise RewoundError(f"the log ends at {int(position)}, and this host has read {place.position}")
        if place.position < int(trimmed):
            raise TrimmedError(
                f"the log begins behind {int(trimmed)}, and this host has read {place.position}"
            )
        if entries:
            chain = _batch(*entries[0]).chain
        elif place.position > int(trimmed):
            raise RewoundError(f"the log has lost its batch at {place.position}")
        if chain != place.chain:
            raise RewoundError(f"another batch is at {place.position} than the one that this host has read")

    def save(self, snapshot: Snapshot) -> None:
        """See :meth:`mpchat.cluster.store.Store.save`."""
        place = snapshot.place
        kept = self._ask_all(
            [
                ("HGET", self._key("head"), "generation"),
                ("HGET", self._key("snapshot"), "position"),
            ]
        )
        if kept[0] != place.generation.encode() or (kept[1] is not None and int(kept[1]) >= place.position):
            return
        upload = self._upload(snapshot)
        self._run(
            "save",
            (self._key("snapshot"), self._key("parts"), upload),
            place.generation,
            place.position,
            len(snapshot.parts),
            KEPT,
            KEPT_BATCHES,
            *_snapshot_fields(snapshot),
        )

    def load(self) -> Snapshot | None:
        """See :meth:`mpchat.cluster.store.Store.load`."""
        for _ in range(LOAD_TRIES):
            fields = self._ask("HMGET", self._key("snapshot"), *_SNAPSHOT)
            if fields[0] is None:
                return None
            count = int(fields[7])
            parts: list[bytes] = []
            for start in range(0, count, PARTS_AT_ONCE):
                parts += self._ask("LRANGE", self._key("parts"), start, start + PARTS_AT_ONCE - 1)
            if self._ask("HMGET", self._key("snapshot"), *_SNAPSHOT) == fields:
                return Snapshot(_place(fields), int(fields[6]), parts[:count])
        raise UnavailableError("the snapshot is replaced faster than it can be loaded")

    def stand(self, generation: str, place: Place, name: str) -> Standing:
        """See :meth:`mpchat.cluster.store.Store.stand`."""
        answer, *others = self._run(
            "stand",
            (),
            generation,
            place.position,
            name,
            _milliseconds(STAND_TIME),
            STANDS,
            place.chain,
        )
        places = zip(map(int, others[::2]), others[1::2], strict=True)
        return Standing(str(answer.decode()), tuple(places))

    def found(self, old: str | None, snapshot: Snapshot) -> bool:
        """See :meth:`mpchat.cluster.store.Store.found`."""
        place = snapshot.place
        [answer] = self._run(
            "found",
            (self._key("snapshot"), self._key("parts"), self._upload(snapshot)),
            FORMAT,
            old or "",
            place.generation,
            place.position,
            place.chain,
            place.total,
            _milliseconds(place.time),
            len(snapshot.parts),
            *_snapshot_fields(snapshot),
        )
        if answer == b"upload":
            raise UnavailableError("Redis has lost what was uploaded of the snapshot")
        return bool(answer == b"ok")

    def close(self) -> None:
        """See :meth:`mpchat.cluster.store.Store.close`."""
        self._connection.close()

    def _key(self, what: str) -> str:
        return f"{{mpchat:{self._name}}}:{what}"

    def _ask(self, *command: Argument, wait: float = 0.0, repeat: bool = True) -> Any:
        try:
            return self._connection.ask(*command, wait=wait, repeat=repeat)
        except DeniedError as error:
            raise UnavailableError(self._denied(error)) from None
        except redis.ResponseError as error:
            raise self._answered(error) from None

    def _ask_all(self, commands: list[tuple[Argument, ...]]) -> list[Any]:
        try:
            answers = self._connection.ask_all(commands)
        except DeniedError as error:
            raise UnavailableError(self._denied(error)) from None
        for each in answers:
            if isinstance(each, redis.ResponseError):
                raise self._answered(each)
        return answers

    def _run(self, name: str, keys: tuple[str, ...], *arguments: Argument) -> Any:
        """Run a script by its hash, or by its text where Redis does not have it: it was restarted, say."""
        script = self._scripts.get(name)
        if script is None:
            script = self._scripts[name] = _Script(name)
        rest = (len(_COMMON) + len(keys), *(self._key(each) for each in _COMMON), *keys, *arguments)
        try:
            return self._connection.ask("EVALSHA", script.sha, *rest)
        except DeniedError as error:
            raise UnavailableError(self._denied(error)) from None
        except redis.exceptions.NoScriptError:
            return self._ask("EVAL", script.source, *rest)
        except redis.ResponseError as error:
            raise self._answered(error) from None

    def _upload(self, snapshot: Snapshot) -> str:
        """Bring a snapshot's parts to Redis, and return their key, which goes by itself."""
        key = self._key(f"upload:{snapshot.place.position}:{secrets.token_hex(8)}")
        try:
            for portion in _portions([(0, 0, part) for part in snapshot.parts]):
                if portion:
                    # A repetition after a lost answer would double parts: the script counts them.
                    self._ask_all(
                        [("RPUSH", key, *(part for _, _, part in portion)), ("EXPIRE", key, UPLOAD_KEPT)]
                    )
        except UnavailableError:
            with suppress(StoreError):  # there may be no memory for it: what is there stands in others' way
                self._ask("UNLINK", key)
            raise
        return key

    def _denied(self, error: DeniedError) -> str:
        return (
            f"Redis at {self._url} does not let this host in ({error}): "
            "see the settings cluster and cluster_password"
        )

    def _answered(self, error: redis.ResponseError) -> UnavailableError:
        return UnavailableError(f"Redis at {self._url} answers: {error}")

    def _check_server(self, fields: dict[str, str]) -> None:
        version = fields.get("redis_version", "0")
        numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
        if numbers < OLDEST_REDIS:
            raise RefusedError(f"Redis at {self._url} has version {version}: 6.2 or newer is needed")

    def _check_memory(self, fields: dict[str, str]) -> None:
        policy = fields.get("maxmemory_policy", "noeviction")
        if policy != "noeviction" and fields.get("maxmemory", "0") != "0":
            raise RefusedError(
                f"Redis at {self._url} removes keys when its memory is full (maxmemory-policy {policy}): "
                "set its maxmemory-policy to noeviction"
            )

    def _check_keys(self) -> None:
        """Raise RefusedError if a key of this name is another program's."""
        *types, head_format = self._connection.ask_all(
            [("TYPE", self._key(what)) for what in _TYPES] + [("HGET", self._key("head"), "format")]
        )
        is_ours = isinstance(head_format, bytes)
        for (what, kind), found in zip(_TYPES.items(), types, strict=True):
            # Without a head there may be statements of hosts that have just lost a log, and nothing else.
            allowed = (b"none", kind) if is_ours or what == "stand" else (b"none",)
            if found not in allowed:
                raise RefusedError(
                    f"the key {self._key(what)!r} in Redis at {self._url} is not mpchat's: "
                    "choose another cluster_name"
                )
        if is_ours and head_format != FORMAT.encode():
            raise RefusedError(
                f"the log {self._name!r} in Redis at {self._url} has format {head_format.decode()}, and "
                f"this version of mpchat knows format {FORMAT}: choose another cluster_name"
            )

    def _check_follows(self, place: Place, batch: Batch) -> None:
        """Raise the error that says why a batch is not the one after ``place``."""
        if batch.position == place.position + 1:
            time = round(batch.time * 1000)
            if batch.chain == chained(place.chain, batch.epoch, batch.number, time, batch.kind):
                return
            self.check(place)
            raise RewoundError(f"the batch at {batch.position} does not follow what this host has read")
        self.check(place)
        raise TrimmedError(f"the log goes on with {batch.position}, and this host has read {place.position}")

    def _raise_refusal(self, what: bytes, rest: list[Any]) -> None:
        """Raise the error that a script's answer means; return for ``ok``."""
        if what == b"fenced":
            raise FencedError("this host's lease is over")
        if what == b"rewound":
            reason = rest[0].decode()
            raise RewoundError(
                {
                    "empty": "the log is empty",
                    "another": "another log has been begun",
                    "lost": "other hosts say that the log was lost",
                    "owner": "another host has got this host's epoch",
                    "unknown": "the log has lost this host's registration",
                    "behind": "the log ends at {}, and this host has read further",
                    "gap": "the log lacks this host's batches from {} up to {}",
                }[reason].format(*(each.decode() for each in rest[1:]))
            )


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _fields(info: bytes) -> dict[str, str]:
    """Return the lines of INFO."""
    lines = (line.partition(":") for line in info.decode(errors="replace").splitlines())
    return {name: value for name, _, value in lines}


def _portions(batches: list[tuple[int, int, bytes]]) -> Iterator[list[tuple[int, int, bytes]]]:
    """Split into lists of up to PORTION bytes of payload; there is one list at least."""
    portion: list[tuple[int, int, bytes]] = []
    size = 0
    for batch in batches:
        if portion and size + len(batch[2]) > PORTION:
            yield portion
            portion, size = [], 0
        portion.append(batch)
        size += len(batch[2])
    yield portion


def _batch(identity: bytes, fields: list[bytes]) -> Batch:
    """Return what an entry of the stream says."""
    kind, epoch, number, time, at, total, version, chain = fields[1].split(b" ")
    return Batch(
        position=int(identity.partition(b"-")[0]),
        kind=kind.decode(),
        epoch=int(epoch),
        number=int(number),
        time=int(time) / 1000,
        at=int(at) / 1000,
        total=int(total),
        version=int(version),
        payload=fields[3],
        chain=chain,
    )


def _snapshot_fields(snapshot: Snapshot) -> list[Argument]:
    """Return names and values of the hash that describes a snapshot."""
    values: tuple[Argument, ...] = (*snapshot.place, snapshot.version, len(snapshot.parts))
    return [each for pair in zip(_SNAPSHOT, values, strict=True) for each in pair]


def _place(fields: list[bytes]) -> Place:
    generation, position, chain, total, time, at = fields[:6]
    return Place(generation.decode(), int(position), chain, int(total), float(time), float(at))
