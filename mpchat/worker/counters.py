"""Counters: one set of figures for all fan-outs, dialects and rooms of a worker, counted from its start."""

from collections import Counter


class Counters:
    """What a worker has done so far."""

    def __init__(self) -> None:
        # Messages that clients have sent.
        self.messages_in = 0
        # Messages given to clients, each counted once per client that took it.
        self.delivered = 0
        # Clients that are not where their stream is, now. A sum over all fan-outs, made for each beat, took
        # ten times what all else took in a server of 5 000 silent rooms.
        self.late = 0
        # Connections ended by this worker, by reason.
        self.ended: Counter[str] = Counter()
