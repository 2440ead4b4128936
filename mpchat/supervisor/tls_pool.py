"""TLS pool: the TLS processes. Their clients cannot be moved: a reload keeps them, and brings a certificate.

A process that is no longer wanted gets no further client, and ends with its last one.
"""

from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import msgspec

from mpchat.config import Config
from mpchat.instance.record import Identity
from mpchat.ipc.items import Down
from mpchat.supervisor.placement import TLS_PATIENCE
from mpchat.supervisor.pool import WorkerPool
from mpchat.supervisor.slot import Slot
from mpchat.supervisor.worker_handle import WorkerHandle
from mpchat.supervisor.worker_process import TLS
from mpchat.tls.certificate import Certificate


class Pools(NamedTuple):
    """All processes below the supervisor."""

    workers: WorkerPool
    tls: "TlsPool"

    @property
    def handles(self) -> Iterator[WorkerHandle]:
        """Every process, whatever it is doing."""
        return chain(self.workers.handles, self.tls.handles)

    @property
    def identities(self) -> list[Identity]:
        """Every process, for the record and for whoever has to end them."""
        return [handle.identity for handle in self.handles]

    def pass_on(self, number: int) -> None:
        """Signal them; see :meth:`WorkerPool.pass_on`."""
        self.workers.pass_on(number)
        self.tls.pass_on(number)

    def kill(self) -> None:
        """Kill all of them, and wait for their ends."""
        self.workers.kill()
        self.tls.kill()


class TlsPool(WorkerPool):
    """The slots of TLS processes; none while TLS is off."""

    kind = TLS
    # What new clients are shown; None while TLS is off.
    certificate: Certificate | None = None

    @staticmethod
    def wanted(config: Config) -> int:
        """How many processes a configuration asks for."""
        return config.tls_processes if config.tls_on else 0

    @property
    def patience(self) -> float:
        """For how long (seconds) clients may wait for one of these processes: there may be none to come."""
        return TLS_PATIENCE if self.wanted(self.config) else 0.0

    @property
    def shaking(self) -> int:
        """How many clients are with these processes alone, or about to be: they still shake hands."""
        there = (handle.connections for handle in self.handles)
        return sum(each.hosts.total() + len(each.unacked) for each in there)

    def _start(self, slot: Slot, config: Config, generation: int) -> WorkerHandle:
        handle = super()._start(slot, config, generation)
        self._tell(handle)
        return handle

    def _tell_settings(self, handle: WorkerHandle) -> None:
        handle.endpoint.send_now(Down.SETTINGS, msgspec.msgpack.encode(self.config))

    def _tell(self, handle: WorkerHandle) -> None:
        if self.certificate is not None:
            handle.endpoint.send_now(Down.CERTIFICATE, (self.certificate.chain, self.certificate.key))

    def prepare(self, config: Config, certificate: Certificate | None) -> list[Slot]:
        """Start what ``config`` asks for and is not there; return the slots with a new process."""
        self.certificate = self.certificate or certificate
        for number, slot in self.slots.items():
            if number <= self.wanted(config) and slot.old is not None and not slot.old.retiring:
                self.recall(slot)
        wanted = range(1, self.wanted(config) + 1)
        self.add(len(set(wanted) - set(self.slots)))
        added = [self.slots[number] for number in wanted if _is_idle(self.slots[number])]
        for slot in added:
            slot.died = ""
            self.start(slot)
        return added

    def give_up(self) -> None:
        """End processes that were started, or called back, for settings that do not come to hold."""
        self._dismiss_unwanted()
        if not self.config.tls_on:
            self.certificate = None

    def follow(self, config: Config, certificate: Certificate | None) -> None:
        """Let settings hold: new clients are shown ``certificate``."""
        self.config, self.certificate = config, certificate
        for handle in self.handles:
            self._tell_settings(handle)
            self._tell(handle)
        self._dismiss_unwanted()

    def _dismiss_unwanted(self) -> None:
        for slot in [each for each in self.slots.values() if each.number > self.wanted(self.config)]:
            if slot.handle is not None:
                self.dismiss(slot)
            slot.cancel_restart()
        self.tidy()

    def tidy(self) -> None:
        """End the processes that are no longer wanted and have no client left; call it now and then."""
        for slot in list(self.slots.values()):
            if slot.number <= self.wanted(self.config) and slot.old is None:
                continue
            if slot.old is not None and not slot.old.load and not slot.old.retiring:
                self.retire(slot.old)
            if not slot.handles:
                self.remove(slot)


def _is_idle(slot: Slot) -> bool:
    """Tell whether a slot has no process but one that is ending, and none is planned."""
    return slot.handle is None and slot.restart is None and (slot.old is None or slot.old.retiring)
