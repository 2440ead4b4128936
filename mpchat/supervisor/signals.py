"""Signals: delivered to the supervisor's loop as numbers on a descriptor, so handlers have nothing to do."""

import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType

from mpchat.ipc import logs
from mpchat.reactor import READ, Reactor
from mpchat.supervisor import orphans

STOP = frozenset({signal.SIGTERM, signal.SIGINT})
# Reload, or end with the terminal.
HANGUP = signal.SIGHUP
# One worker more, and one fewer.
MORE = signal.SIGTTIN
FEWER = signal.SIGTTOU
# A child has ended: seen only by a server that gets orphans.
CHILD = signal.SIGCHLD
# Passed on to the workers: the log is opened anew; stacks are written.
PASSED_ON = frozenset({signal.SIGUSR1, signal.SIGUSR2})


def watch_signals(
    reactor: Reactor, stack: ExitStack, log_file: str, on_signal: Callable[[signal.Signals], None]
) -> None:
    """Call ``on_signal`` in the loop for each signal; ``stack`` undoes the wake-up descriptor.

    This process's own part in SIGUSR1 and SIGUSR2 is done by :mod:`mpchat.ipc.logs` at once, loop or not.
    """
    near, far = socket.socketpair()
    stack.callback(near.close)
    stack.callback(far.close)
    near.setblocking(False)
    far.setblocking(False)
    # Before any handler is set: a signal that found its handler but not this would be lost.
    signal.set_wakeup_fd(far.fileno(), warn_on_full_buffer=False)
    stack.callback(signal.set_wakeup_fd, -1)
    for number in (*STOP, HANGUP, MORE, FEWER, signal.SIGUSR2):
        signal.signal(number, _wake)
    if reaps := orphans.gets_orphans():
        signal.signal(CHILD, _wake)
    logs.reopen_on_signal(log_file)
    logs.dump_on_signal(chain=True)

    def on_readable(mask: int) -> None:
        for number in near.recv(64):
            on_signal(signal.Signals(number))

    reactor.watch(near, READ, on_readable)
    if reaps:
        orphans.reap()  # those that ended before there was a handler


def _wake(number: int, frame: FrameType | None) -> None:
    """Do nothing: since the signal has a handler, Python writes its number to the wake-up descriptor."""
