"""Which member has which name, as the members of a process know it. Pure: times are given."""

from dataclasses import dataclass, field

from scripts.stress.findings import Findings


@dataclass
class Names:
    """Finds two connections with one name, and names refused that are free."""

    findings: Findings
    hold: float  # seconds that the server keeps a name for its owner
    patience: float  # seconds that the server may take for what it owes
    # Name → number of each connection → what findings call it.
    _here: dict[str, dict[int, str]] = field(default_factory=dict)
    _left: dict[str, float] = field(default_factory=dict)  # when a name last had a connection
    _freed: set[str] = field(default_factory=set)  # names whose owner has closed its connection in order
    _to_end: dict[int, tuple[float, str]] = field(default_factory=dict)

    def welcomed(self, name: str, number: int, label: str, now: float, *, owner: bool) -> None:
        """Note that a connection was let in under a name; the server has to end earlier ones with it."""
        here = self._here.setdefault(name, {})
        if owner:
            self._freed.discard(name)
        # A client learns later than the server that its worker was killed.
        if not owner and self.held(name, now + self.hold / 2) and name not in self._freed:
            self.findings.note("names", f"{label} was let in as {name}, another member's name")
        for other, which in here.items():
            if other != number:
                self._to_end.setdefault(other, (now, f"{which}, after {label} had come as {name}"))
        here[number] = label

    def freed(self, name: str) -> None:
        """Note that the owner has closed its connection in order: the name may be free."""
        self._freed.add(name)

    def gone(self, name: str, number: int, now: float) -> None:
        """Note that a connection has ended, whichever side ended it."""
        here = self._here.get(name, {})
        if here.pop(number, None) is not None:
            self._left[name] = now
        self._to_end.pop(number, None)

    def held(self, name: str, now: float) -> bool:
        """Say whether a name has a connection, or had one up to ``hold`` seconds ago."""
        return bool(self._here.get(name)) or now < self._left.get(name, float("-inf")) + self.hold

    def refused_to_owner(self, name: str, label: str) -> None:
        """Note ``name_taken`` for a client that proved that the name is its own."""
        self.findings.note("names", f"{label} was refused its own name {name}")

    def refused(self, name: str, label: str, since: float) -> None:
        """Note ``name_taken`` for a stranger that asked at ``since``: a member must have the name."""
        if not self.held(name, since - self.patience):
            self.findings.note("names", f"{label} was refused {name}, which no member has")

    def overdue(self, now: float) -> None:
        """Report connections whose name was taken over and that are still there."""
        for number, (since, which) in list(self._to_end.items()):
            if now - since > self.patience:
                del self._to_end[number]
                self.findings.note("names", f"still there: {which}")
