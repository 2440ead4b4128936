"""The quiet end: which members are where, by their own account and by the server's. Pure."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from scripts.stress.findings import Findings

# Names of members that a finding shows; there may be hundreds.
NAMED = 5


class Present(NamedTuple):
    """A member at the end: where it is, how far it has read, how many members it believes are there."""

    name: str
    room: str
    position: int
    members: int


def compare(
    present: Iterable[Present], who: Mapping[str, set[str]], last: Callable[[str], int], findings: Findings
) -> None:
    """Compare members with the answers to ``who``, and their positions with ``last`` of each room."""
    there: dict[str, set[str]] = {}
    for each in present:
        there.setdefault(each.room, set()).add(each.name)
        if each.position < last(each.room):
            text = f"{each.name} has got to {each.position} of {last(each.room)} in {each.room}"
            findings.note("lost", text)
        if each.room in who and each.members != len(who[each.room]):
            text = f"{each.name} believes {each.members} are in {each.room}, not {len(who[each.room])}"
            findings.note("members", text)
    for room in sorted(there.keys() | who.keys()):
        here, listed = there.get(room, set()), who.get(room, set())
        if here - listed:
            findings.note("members", f"{sorted(here - listed)[:NAMED]} are in {room}, and it does not say so")
        if listed - here:
            findings.note("members", f"{sorted(listed - here)[:NAMED]} are not in {room}, and it says so")
