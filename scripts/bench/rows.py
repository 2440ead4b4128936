"""The rows of the bench: what work there is. Data only; what mpchat is to reach in them is in goals.py."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from scripts.bench.row import FULL_WINDOW, Row

# Members of each room, and messages a second in all rooms together.
MEMBERS = 4
ROOMS_RATES = {"rooms": 1000, "rooms-busy": 4000}
ROOMS_TARGETS = {"rooms": 1.20, "rooms-busy": 1.10}
# Rooms of the row as fast as possible, and the bytes of text in flight in each: 20 messages of 100 bytes.
FAST_ROOMS, FAST_WINDOW = 500, 2000
# With texts of so many bytes a plain frame is as long as a member's frame with a text of 100 bytes.
AS_LONG = 170


@dataclass(frozen=True)
class Sizes:
    """The sizes that the command line may change."""

    connects: int = 4000  # clients of the row `connect`
    idle: int = 10_000  # clients of the row `idle`
    rooms: int = 4900
    windows: Sequence[int] = (64 * 1024, FULL_WINDOW)  # bytes in flight of the rows as fast as possible


def all_rows(sizes: Sizes) -> list[Row]:
    """Return every row; one room as fast as possible stands there once for each window."""
    return [
        each
        for row in _rows(sizes)
        for each in ([row] if row.rate or row.rooms > 1 else windowed(row, sizes.windows))
    ]


def windowed(row: Row, windows: Sequence[int]) -> Iterator[Row]:
    """Yield the row with each window. The full window has no suffix, and it alone has a goal."""
    for window in windows:
        title = f"{row.title}, {window_name(window)} in flight"
        if window == FULL_WINDOW:
            yield replace(row, title=title)
            continue
        suffix = f"-{window // 1024}k"
        plain = row.plain and row.plain + suffix
        yield replace(row, name=row.name + suffix, title=title, plain=plain, window=window, target=None)


def window_name(window: int) -> str:
    """Return a number of bytes in the unit that suits it."""
    kib, mib = window // 1024, window // 2**20
    return f"{mib} MiB" if mib and not window % 2**20 else f"{kib} KiB"


def _rows(sizes: Sizes) -> Iterator[Row]:
    fast = "as fast as possible"
    yield Row("max-10", f"10 clients, 100 B, {fast}", 10, target=0.60)
    yield Row("max-100", f"100 clients, 100 B, {fast}", 100, target=0.30)
    yield Row("max-1000", f"1000 clients, 100 B, {fast}", 1000, target=0.18)
    yield Row("max-100-as-long", f"100 clients, {AS_LONG} B, {fast}", 100, size=AS_LONG)
    yield Row("max-100-1k", f"100 clients, 1 KB, {fast}", 100, size=1024, target=0.42)
    yield Row("max-100-16k", f"100 clients, 16 KB, {fast}", 100, size=16 * 1024)
    yield Row("max-100-8s", f"100 clients, 100 B, 8 of them send, {fast}", 100, senders=8, target=0.28)
    yield Row("steady-1000", "1000 clients, 5 messages a second", 1000, rate=5, target=1.00)
    yield Row("steady-500", "500 clients, 100 messages a second", 500, rate=100, target=1.00)
    yield Row("steady-100", "100 clients, 1000 messages a second", 100, rate=1000, target=0.60)
    connects, idle = (
        Row(name, title, clients, rate=100, messages=1, weigh=True)
        for name, title, clients in (
            ("connect", f"{sizes.connects} clients connect, each is served", sizes.connects),
            ("idle", f"one message to {sizes.idle} idle clients", sizes.idle),
        )
    )
    yield connects
    yield idle
    yield _named("max-100", f"100 named members of a room, 100 B, {fast}", 100)
    yield _named("max-1000", f"1000 named members of a room, 100 B, {fast}", 1000)
    yield _named("max-100-1k", f"100 named members of a room, 1 KB, {fast}", 100, size=1024)
    yield _named("steady-1000", "1000 named members of a room, 5 messages a second", 1000, rate=5)
    yield _named("steady-100", "100 named members of a room, 1000 messages a second", 100, rate=1000)
    title = f"{FAST_ROOMS} rooms of {MEMBERS}, 20 messages of 100 B in flight in each"
    members = FAST_ROOMS * MEMBERS
    yield Row("rooms-max", title, members, rooms=FAST_ROOMS, window=FAST_WINDOW, target=1.5, least_pace=1.0)
    for name, rate in ROOMS_RATES.items():
        title = f"{sizes.rooms} rooms of {MEMBERS}, {rate} messages a second"
        clients = sizes.rooms * MEMBERS
        target = ROOMS_TARGETS[name]
        yield Row(name, title, clients, rate=rate, rooms=sizes.rooms, target=target, weigh=True)


def _named(plain: str, title: str, clients: int, *, size: int = 100, rate: float = 0.0) -> Row:
    """Return the row of named members that is compared with the row ``plain``."""
    return Row(f"{plain}-named", title, clients, size=size, rate=rate, rooms=1, plain=plain)
