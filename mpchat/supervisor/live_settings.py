"""Live settings: the settings that hold now, and how a reload checks, adopts or gives up new ones.

Workers get new settings when they are replaced; this is about everything outside them. Checking changes
nothing that a client could notice, and what it has prepared is given up when the reload fails.
"""

import os
import time
from collections.abc import Callable, Generator, Mapping
from functools import partial
from typing import Any, NamedTuple

import msgspec

from mpchat.config import Config, differing, fixed
from mpchat.errors import StartError
from mpchat.hook.target import Target, target_of
from mpchat.hub.hub import Hub
from mpchat.hub.limits import Kept, Limits
from mpchat.ipc import logs
from mpchat.settings import Sources
from mpchat.supervisor.acceptor import Acceptor
from mpchat.supervisor.capacity import connections_per_worker
from mpchat.supervisor.gate import Gate, Verifiers, close_verifiers, make_verifiers
from mpchat.supervisor.hook_part import HookPart
from mpchat.supervisor.listeners import (
    NO_CHANGE,
    AddressTakenError,
    ListenerChange,
    look_up,
    port_of,
    prepare_change,
    taken_by,
)
from mpchat.supervisor.placement import Placement
from mpchat.supervisor.slot import Slot, SlotState
from mpchat.supervisor.slow_call import SlowCall
from mpchat.supervisor.startup import Order
from mpchat.supervisor.tls_pool import TlsPool
from mpchat.tls.certificate import Certificate, read_certificate

# Seconds that a reload waits for the name server's answer about a new host, for the name of the program that
# has a new address, and for the disk with the settings file and a new log.
LOOKUP_TIMEOUT = 5.0
# Settings that mean nothing to a server whose sockets a service manager has opened, and why.
GIVEN = dict.fromkeys(
    ("host", "port"), "the service manager has opened the sockets; change its socket unit and start both anew"
)


class Prepared(NamedTuple):
    """What a check has made ready; ``kept`` are settings that need a restart, each with the reason."""

    config: Config
    listeners: ListenerChange
    kept: dict[str, str]
    per_worker_before: int
    certificate: Certificate | None
    target: Target | None
    verifiers: Verifiers | None


class Followers(NamedTuple):
    """The parts of the server that follow the settings."""

    acceptor: Acceptor
    hub: Hub
    placement: Placement
    tls: TlsPool
    gate: Gate
    hook: HookPart


class LiveSettings:
    """The settings that hold, where they came from, and the parts of the server that follow them."""

    def __init__(
        self,
        order: Order,
        descriptors: int,
        followers: Followers,
        on_adopted: Callable[[Config], None],
    ) -> None:
        """Begin with the settings of the start; ``descriptors`` is the limit of each process.

        ``on_adopted`` is called when other settings hold, also where the server listens.
        """
        self.config = order.config
        self.descriptors = descriptors
        # Settings that cannot change besides those that never can, and why.
        self.also_fixed: Mapping[str, str] = {}
        self._sources = order.sources
        self._acceptor, self._hub, self._placement, self._tls, self._gate, self._hook = followers
        self._on_adopted = on_adopted

    def check(self, pause: Callable[[], Generator[None]]) -> Generator[None, None, Prepared]:
        """Read the settings again and prepare what they need; goes through ``pause`` while it has to wait.

        Raise :class:`ConfigError` or :class:`StartError` with nothing changed. On success :meth:`adopt` or
        :meth:`give_up` must follow.
        """
        reading = SlowCall(
            partial(_read, self._sources, self.config, self._gate.had_accounts, self.also_fixed)
        )
        yield from _wait(reading, pause)
        if not reading.done:
            reading.give_up(lambda read: close_verifiers(read[-1]))
            disk = "the disk with the settings file, the log, the keys or the accounts"
            raise StartError(f"no answer within {LOOKUP_TIMEOUT:g} s from {disk}; nothing has changed")
        config, kept, certificate, target, verifiers = reading.result()
        listeners = NO_CHANGE
        if (config.host, config.port) != (self.config.host, self.config.port):
            listeners = yield from self._prepare_listeners(config, pause)
        per_worker = self._placement.per_worker
        prepared = Prepared(config, listeners, kept, per_worker, certificate, target, verifiers)
        # New workers take connections before the settings are adopted.
        self._placement.per_worker = connections_per_worker(self.descriptors, config.multiplexer)
        added = self._tls.prepare(config, certificate)
        try:
            yield from self._until_tls_is_ready(added, pause)
        except StartError:
            self.give_up(prepared)
            raise
        return prepared

    def _until_tls_is_ready(
        self, added: list[Slot], pause: Callable[[], Generator[None]]
    ) -> Generator[None, None, None]:
        """Wait for new TLS processes: a new worker may have a client for them at once."""
        while not all(slot.state is SlotState.RUNNING for slot in added):
            for slot in added:
                if slot.died:
                    raise StartError(f"{slot.title} could not start, {slot.died}; nothing has changed")
            yield from pause()

    def _prepare_listeners(
        self, config: Config, pause: Callable[[], Generator[None]]
    ) -> Generator[None, None, ListenerChange]:
        """Listen at new addresses. Port 0 stands for the port that the server has."""
        lookup = look_up(config.host, config.port or port_of(self._acceptor.listeners[0]))
        yield from _wait(lookup, pause)
        if not lookup.done:
            hosts, within = ", ".join(config.host), f"within {LOOKUP_TIMEOUT:g} s"
            raise StartError(f"no answer {within} about an address of {hosts}; nothing has changed")
        try:
            return prepare_change(self._acceptor.listeners, lookup.result())
        except AddressTakenError as error:
            holder = SlowCall(partial(taken_by, error.where))
            yield from _wait(holder, pause)
            raise (holder.result() if holder.done else error) from None

    def give_up(self, prepared: Prepared) -> None:
        """Leave everything as it was before the check."""
        prepared.listeners.give_up()
        close_verifiers(prepared.verifiers)
        self._tls.give_up()
        self._placement.per_worker = prepared.per_worker_before

    def adopt(self, prepared: Prepared) -> None:
        """Let new settings hold; workers get theirs when they are replaced."""
        before, self.config = self.config, prepared.config
        self._acceptor.change(prepared.listeners)
        self._tls.follow(self.config, prepared.certificate)
        self._gate.follow(self.config, prepared.verifiers)
        self._hook.follow(prepared.target)
        self._acceptor.refusals.follow(self.config)
        self._hub.change_limits(limits_of(self.config), notices=self.config.notices, now=time.monotonic())
        logs.follow(before, self.config)
        self._on_adopted(self.config)


def _wait(call: SlowCall[Any], pause: Callable[[], Generator[None]]) -> Generator[None]:
    """Wait for a slow call, at most ``LOOKUP_TIMEOUT``."""
    deadline = time.monotonic() + LOOKUP_TIMEOUT
    while not call.done and time.monotonic() < deadline:
        yield from pause()


def _read(
    sources: Sources, running: Config, had_accounts: bool, also_fixed: Mapping[str, str]
) -> tuple[Config, dict[str, str], Certificate | None, Target | None, Verifiers | None]:
    """Return the settings as they are now, and those that need a restart with the reasons.

    And the certificate, the webhook's receiver, and what proofs are checked with. Asks the disk for the
    settings file, and for a new log. With ``had_accounts`` their file must be there. Raise
    :class:`ConfigError` or :class:`StartError`.
    """
    wanted = sources.read_again(os.environ, running)
    if not running.cluster:  # it follows from the name, and means nothing to a server that is alone
        wanted = msgspec.structs.replace(wanted, host_name=running.host_name)
    cannot = {**fixed(running), **also_fixed}
    kept = {name: cannot[name] for name in differing(running, wanted) if name in cannot}
    if running.log_file and not wanted.log_file:
        kept["log_file"] = "standard error was given up for it; stop and start"
    config = msgspec.structs.replace(wanted, **{name: getattr(running, name) for name in kept})
    if config.log_file and config.log_file != running.log_file:
        try:
            logs.check(config.log_file)
        except OSError as error:
            said = f"cannot write the log {config.log_file}: {error.strerror}"
            raise StartError(f"{said}; nothing has changed") from None
    certificate = None
    if config.tls_on:
        try:
            certificate = read_certificate(config.tls_cert, config.tls_key)
        except StartError as error:
            raise StartError(f"{error}; nothing has changed") from None
    try:
        target = target_of(config)
        return config, kept, certificate, target, make_verifiers(config, had_accounts=had_accounts)
    except StartError as error:
        raise StartError(f"{error}; nothing has changed") from None


def limits_of(config: Config) -> Limits:
    """Return the limits that the hub keeps to."""
    kept = Kept(config.history_messages, config.lag_limit, config.history_age)
    return Limits(
        rooms=config.max_rooms,
        rooms_per_address=config.max_rooms_per_address,
        members=config.max_members,
        name_hold=config.name_hold,
        kept=kept,
        lag=config.lag_limit,
        answers=config.answers_memory,
        auth=config.auth,
        proofs=config.proofs,
    )
