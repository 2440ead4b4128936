"""Held names: which names are held for which address, and which goes first when there are too many. Pure.

The rule: past the limit, the address that holds most names loses the name that it has held longest. So the
names of one address push out their own, and never those of an address that holds fewer. Every step is O(1):
the first of a plain dict is found after a look at all that were before it and are gone.
"""

from collections import OrderedDict
from collections.abc import Iterable


class HeldNames:
    """The keys of the held names, the longest held first."""

    def __init__(self) -> None:
        self._owners = OrderedDict[str, str]()
        self._by_owner: dict[str, OrderedDict[str, None]] = {}
        # Addresses by the number of names that they hold, and the largest such number.
        self._by_count: dict[int, OrderedDict[str, None]] = {}
        self._most = 0

    def __len__(self) -> int:
        return len(self._owners)

    @property
    def oldest(self) -> str:
        """The key of the name that has been held longest. There must be one."""
        return next(iter(self._owners))

    @property
    def first_to_go(self) -> str:
        """The key of the longest held name of the address that holds most. There must be one."""
        owner = next(iter(self._by_count[self._most]))
        return next(iter(self._by_owner[owner]))

    def add(self, key: str, owner: str) -> None:
        """Hold a name, not held yet, for an address."""
        self._owners[key] = owner
        names = self._by_owner.setdefault(owner, OrderedDict())
        names[key] = None
        self._recount(owner, len(names) - 1, len(names))

    def remove(self, key: str) -> None:
        """Hold a name no more, if it is held."""
        owner = self._owners.pop(key, None)
        if owner is None:
            return
        names = self._by_owner[owner]
        del names[key]
        if not names:
            del self._by_owner[owner]
        self._recount(owner, len(names) + 1, len(names))

    def saved(self) -> tuple[list[tuple[str, str]], list[str]]:
        """Return each key and its address, the longest held first; and the addresses, by what they hold.

        The order of the addresses does not follow from that of the names: it decides which goes first among
        those that hold equally many.
        """
        holders = [owner for count in sorted(self._by_count) for owner in self._by_count[count]]
        return list(self._owners.items()), holders

    def put_back(self, held: Iterable[tuple[str, str]], holders: Iterable[str]) -> None:
        """Hold, as the first, what :meth:`saved` has returned."""
        for key, owner in held:
            self._owners[key] = owner
            self._by_owner.setdefault(owner, OrderedDict())[key] = None
        for owner in holders:
            self._most = len(self._by_owner[owner])
            self._by_count.setdefault(self._most, OrderedDict())[owner] = None

    def _recount(self, owner: str, before: int, after: int) -> None:
        """Note that an address holds one name more or one fewer."""
        if after:
            self._by_count.setdefault(after, OrderedDict())[owner] = None
        if before:
            del self._by_count[before][owner]
            if not self._by_count[before]:
                del self._by_count[before]
        if after > self._most or self._most not in self._by_count:
            self._most = after
