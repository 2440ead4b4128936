"""Moderation keeper: what the file of bans and mutes lacks, and what another program has changed there.

It reads and writes nothing itself. It returns jobs for a thread, because a disk can be slow or hang. Between
the start of a job and its end the hub goes on, and rules change meanwhile.
"""

from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path

from mpchat.hub.moderation import Moderation, Rule
from mpchat.hub.moderation_file import Check, ModerationFile, read_moderation, trusted

# A rule's table and key there.
RuleKey = tuple[str, str]


class FileLook:
    """A job that looks at the file. After it :attr:`found` is what the file says, if that has changed."""

    def __init__(self, since: int, look: Callable[[], Moderation | None]) -> None:
        self.since = since
        self.found: Moderation | None = None
        self._look = look

    def __call__(self) -> None:
        """Do it; any thread may, one job after the other."""
        self.found = self._look()


class ModerationKeeper:
    """The rules that the file lacks, and when each rule was changed here."""

    def __init__(self, path: Path | None, check: Check = trusted) -> None:
        """Keep nothing if ``path`` is None; ``check`` refuses a file that others may write.

        Raise :class:`StartError` for a file that is refused or cannot be read.
        """
        self.at_start = read_moderation(path, check) if path is not None else Moderation()
        self._file = ModerationFile(path, check) if path is not None else None
        # None stands for a rule to be removed.
        self._unwritten: dict[RuleKey, Rule | None] = {}
        # Counts changes. An operator makes each of them.
        self._changes = 0
        self._changed: dict[RuleKey, int] = {}

    def note(self, table: str, key: str, rule: Rule | None) -> None:
        """Take note that a rule was set or, with None, removed."""
        if self._file is not None:
            self._changes += 1
            self._changed[table, key] = self._changes
            self._unwritten[table, key] = rule

    def write(self, mine: Moderation) -> Callable[[], None]:
        """Return a job that writes what the file lacks; it raises :class:`MpchatError`.

        ``mine`` are the rules that hold here.
        """
        if self._file is None:
            return lambda: None
        return partial(self._file.change, self._take(), mine.copy())

    def look(self, mine: Moderation) -> FileLook:
        """Return a job that looks at the file, and writes it if it lacks something or is gone."""
        if self._file is None:
            return FileLook(self._changes, lambda: None)
        return FileLook(self._changes, partial(self._file.look, self._take(), mine.copy()))

    def _take(self) -> dict[RuleKey, Rule | None]:
        taken, self._unwritten = self._unwritten, {}
        return taken

    def news(self, look: FileLook, mine: Moderation, at: float) -> Iterator[tuple[str, str, Rule | None]]:
        """Yield table, key and rule of all that another program has changed; None stands for a removed rule.

        A rule that was changed here after the look had begun is as it was changed here.
        """
        if look.found is None:
            return
        newer: Collection[RuleKey] = {key for key, change in self._changed.items() if change > look.since}
        for table, key, _ in list(mine.missing_in(look.found, at)):
            if key not in look.found.table(table) and (table, key) not in newer:
                yield table, key, None
        for table, key, rule in list(look.found.missing_in(mine, at)):
            if (table, key) not in newer:
                yield table, key, rule
