"""Redis connection: one connection to the Redis that a URL means, used by one thread.

It knows nothing of the log. It connects when it is asked something, finds the master through Sentinels, and
says in plain words why Redis cannot be used. The rule it keeps: after an answer that did not come the
connection is closed, so that no later question gets that answer. A password is in no text of it.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from mpchat.cluster.store import UnavailableError, UnreachableError
from mpchat.cluster_url import ClusterUrl, Server, shown

# Seconds to connect, and without a byte of an answer beyond the time that a command itself waits.
PATIENCE = 2.0
# Seconds for one Sentinel: the others know the same.
SENTINEL_PATIENCE = 0.5

Argument = str | bytes | int | float

# What Redis's own words mean. Their code is at the beginning, but redis-py takes some codes away, and before
# Redis 7 an error within a script has the code in the middle.
_MEANINGS = (
    (("OOM ", "used memory > 'maxmemory'"), "it is out of memory: raise its maxmemory or free memory in it"),
    (
        ("MISCONF",),
        "it takes no writes because it cannot save to its disk (MISCONF): see its log, and free space there",
    ),
    (("READONLY", "read only replica", "UNBLOCKED"), "it is a replica and takes no writes"),
    (("LOADING", "loading the dataset"), "it is still loading its data"),
    (("MASTERDOWN", "Link with MASTER"), "it is a replica that has lost its master"),
    (
        ("NOREPLICAS", "good replicas"),
        "it has fewer replicas than it must have to take writes (min-replicas-to-write)",
    ),
    (("BUSY ", "busy running a script"), "it is busy with a script that does not end"),
)

# Why Redis does not let a host in, in words that lead to the wrong setting.
_DENIALS = (
    ("DB index is out of range", "it has no such database, see its setting databases"),
    ("without any password configured", "it has no password, and cluster or cluster_password has one"),
    ("Authentication required", "a password is needed"),
)


class DeniedError(Exception):
    """Redis refuses the password, the user or the database, or forbids a command to the user."""


class RedisConnection:
    """Asks commands, one at a time or several in one round trip."""

    def __init__(self, url: ClusterUrl, password: str = "") -> None:
        """Do not connect yet. ``password`` is one that was kept apart from the URL; empty: none."""
        self._url = url
        self._password = password or url.password
        self._sentinels = list(url.servers)
        self._connection: redis.Connection | None = None
        self._where = str(url)

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._connection is not None

    def ask(self, *command: Argument, wait: float = 0.0, repeat: bool = True) -> Any:
        """Return the answer to one command that itself waits up to ``wait`` seconds.

        Raises UnavailableError, DeniedError, or ``redis.ResponseError`` for all other errors of the command.
        """
        [answer] = self.ask_all([command], wait=wait, repeat=repeat)
        if isinstance(answer, redis.ResponseError):
            raise answer
        return answer

    def ask_all(
        self, commands: Sequence[Sequence[Argument]], *, wait: float = 0.0, repeat: bool = True
    ) -> list[Any]:
        """Return the answers to commands that are sent in one go.

        An error of a command stands in place of its answer. With ``repeat``, a connection that has gone while
        it was idle is replaced once, and all commands are sent again.
        Raises UnavailableError and DeniedError.
        """
        may_be_stale = repeat and self.is_open
        try:
            return self._exchange(commands, wait)
        except (redis.RedisError, OSError) as error:
            # Not after a timeout: it has cost the time that there is.
            if not (may_be_stale and isinstance(error, redis.ConnectionError | OSError)):
                raise self._failed(error) from None
        try:
            return self._exchange(commands, wait)
        except (redis.RedisError, OSError) as error:
            raise self._failed(error) from None

    def close(self) -> None:
        """Close the connection; the next question opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(redis.RedisError, OSError):
                connection.disconnect()

    def _exchange(self, commands: Sequence[Sequence[Argument]], wait: float) -> list[Any]:
        done = False
        try:
            if self._connection is None:
                self._connection = self._connect()
            connection = self._connection
            connection.send_packed_command(connection.pack_commands(commands))
            if wait and not connection.can_read(timeout=wait + PATIENCE):
                raise redis.TimeoutError(f"no answer within {wait + PATIENCE:g} s")
            answers = [self._answer(connection) for _ in commands]
            done = True
            return answers
        finally:
            if not done:
                self.close()

    def _answer(self, connection: redis.Connection) -> Any:
        """Return one answer, or the error of that command alone."""
        try:
            return connection.read_response()
        except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
            raise DeniedError(_denial(error)) from None
        except redis.ResponseError as error:
            if "unauthenticated" in str(error):  # as Redis calls a long command before any password
                raise DeniedError("a password is needed") from None
            if _meaning(error):
                raise self._failed(error) from None
            return error

    def _connect(self) -> redis.Connection:
        if not self._url.service:
            return self._connected_to_redis(self._url.servers[0])
        # Kept already: if anything fails from here on, it is closed.
        connection = self._connection = self._connected_to_redis(self._find_master())
        connection.send_command("ROLE")
        role = self._answer(connection)
        if isinstance(role, redis.ResponseError) or role[0] != b"master":
            raise UnavailableError(
                f"Redis at {self._where} is no master, though the Sentinels still say that it is"
            )
        return connection

    def _connected_to_redis(self, server: Server) -> redis.Connection:
        return self._connected(server, PATIENCE, self._url.user, self._password, self._url.database)

    def _connected(
        self, server: Server, patience: float, user: str, password: str, database: int = 0
    ) -> redis.Connection:
        """Return a connection that Redis or a Sentinel has let in."""
        self._where = shown(server)
        kind = redis.SSLConnection if self._url.is_tls else redis.Connection
        connection = kind(
            host=server.host,
            port=server.port,
            db=database,
            username=user or None,
            password=password or None,
            socket_timeout=patience,
            socket_connect_timeout=patience,
            socket_keepalive=True,
            health_check_interval=0,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
        try:
            connection.connect()
        except (redis.AuthenticationError, redis.ResponseError) as error:  # or there is no such database
            if _meaning(error):
                raise self._failed(error) from None
            raise DeniedError(_denial(error)) from None
        except redis.TimeoutError as error:
            raise redis.TimeoutError(self._silence(error, patience)) from None
        except UnicodeError as error:  # a name that the resolver cannot encode
            raise UnreachableError(f"Redis at {self._where} cannot be reached: {error}") from None
        return connection

    def _silence(self, error: redis.TimeoutError, patience: float) -> str:
        """Return what it may mean that a new connection got no answer."""
        if "reading" in str(error):
            return f"it does not answer within {patience:g} s, Redis hangs or another program listens there"
        # The time for the connection is that for the handshake too.
        return f"{error} (without TLS there, it is redis://)" if self._url.is_tls else str(error)

    def _find_master(self) -> Server:
        """Ask the Sentinels, first the one that answered last."""
        problems = []
        for sentinel in list(self._sentinels):
            try:
                found = self._ask_sentinel(sentinel)
            except (redis.RedisError, OSError, DeniedError, UnavailableError) as error:
                problems.append(f"{shown(sentinel)}: {_reason(error)}")
                continue
            if found is None:
                problems.append(f"{shown(sentinel)}: knows no master {self._url.service!r}")
                continue
            self._sentinels.remove(sentinel)
            self._sentinels.insert(0, sentinel)
            return Server(found[0].decode(), int(found[1]))
        raise UnreachableError(f"no Sentinel names the master ({'; '.join(problems)})")

    def _ask_sentinel(self, sentinel: Server) -> list[bytes] | None:
        """Ask without the password, since most Sentinels have none; and with it where it is needed."""
        try:
            return self._ask_sentinel_as("", "", sentinel)
        except redis.AuthenticationError:
            if not self._password:
                raise
        return self._ask_sentinel_as(self._url.user, self._password, sentinel)

    def _ask_sentinel_as(self, user: str, password: str, sentinel: Server) -> list[bytes] | None:
        connection = self._connected(sentinel, SENTINEL_PATIENCE, user, password)
        try:
            connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._url.service)
            found: list[bytes] | None = connection.read_response()
        finally:
            connection.disconnect()
        return found

    def _failed(self, error: Exception) -> UnavailableError:
        """Close the connection, and return the error that says why."""
        self.close()
        meaning = _meaning(error)
        if meaning:
            return UnavailableError(f"Redis at {self._where} cannot be used now: {meaning}")
        return UnreachableError(f"Redis at {self._where} cannot be reached: {_reason(error)}")


def _reason(error: Exception) -> str:
    """Return why there is no connection; redis-py puts the address around it, which is shown already."""
    cause = error.__cause__ or error.__context__
    text = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(error)
    return text.rstrip(".") or type(error).__name__


def _denial(error: Exception) -> str:
    text = str(error)
    return next((meaning for words, meaning in _DENIALS if words in text), text)


def _meaning(error: Exception) -> str | None:
    """Return what an error of Redis means for its operator; None for what is no passing state of it."""
    text = str(error)
    if isinstance(error, redis.exceptions.OutOfMemoryError):
        return _MEANINGS[0][1]
    if isinstance(error, redis.ReadOnlyError):
        return _MEANINGS[2][1]
    return next((meaning for words, meaning in _MEANINGS if any(word in text for word in words)), None)
