"""Made-up figures of a server, for the metrics."""

from typing import Any

from mpchat.control.answers import Cluster, History, Host, Webhook
from mpchat.ipc.durations import CLASSES
from mpchat.ipc.items import Beat
from mpchat.supervisor.metrics.figures import Counts, Figures, Held, HubFigures, PoolFigures
from mpchat.supervisor.metrics.table import Snapshot
from mpchat.supervisor.metrics.totals import Counted

TURNS = list(range(1, CLASSES + 1))


def beat(**figures: Any) -> Beat:
    return Beat(connections=10, turns=TURNS, turn_time=0.5, websockets=2, browsers=1, undecided=1, **figures)


def pool(title: str, count: int, **figures: Any) -> PoolFigures:
    """A pool of so many processes, each with the same last beat."""
    last = beat(**figures)
    counted = {}
    for number in range(1, count + 1):
        each = counted[f"{title} {number}"] = Counted()
        each.add(last)
    return PoolFigures(
        states={"RUNNING": count, "BACKOFF": 1},
        counted=counted,
        running=[(number, f"{title} {number}", last) for number in range(1, count + 1)],
        lost=4,
        restarts=3,
        deaths={"killed by SIGKILL": 2, "exit code 1": 1},
    )


def figures(workers: int = 2, **more: Any) -> Figures:
    """A server with everything: TLS, history, a cluster."""
    given: dict[str, Any] = {
        "started": 1.7e9,
        "running": True,
        "connections": 25,
        "fits": 1000,
        "descriptors": 4096,
        "accepted": 50,
        "refused": {"banned": 2, "full": 1},
        "waiting": 1,
        "in_transit": 2,
        "moves": 7,
        "changes": {("reload", True): 2, ("scale", False): 1},
        "hub": HubFigures(
            members=8,
            held_names=3,
            rooms=4,
            streams=1 << 20,
            private=5,
            announced=1,
            trips=Counts(TURNS, 0.25),
        ),
        "workers": pool(
            "worker",
            workers,
            messages_in=70,
            from_members=20,
            messages_out=700,
            bytes_in=1000,
            bytes_out=9000,
            errors={"not_json": 3, 'odd "code"\n': 1},
            ended={"closed": 5, "slow consumer": 1},
            cpu=2.5,
            late=1,
            barred=1,
            waits=6,
            outboxes=512,
            streams=2048,
        ),
        "tls": pool("TLS process", 1, handshakes=12, shaking=2, ended={"slow handshake": 1}),
        "loop": Counts(TURNS, 1.5),
        "cpu": 3.5,
        "certificate_ends": 1.8e9,
        "hook": Webhook(url="u", state="ok", since=1.0, waiting=4, sent=70, dropped=3),
        "history": History(path="h", state="failing: disk full", waiting=100, saved=60, dropped=2),
        "cluster": Cluster(
            name="c",
            host="a",
            state="member",
            since=0.0,
            position=90,
            lag=2,
            behind=0.5,
            redis="redis://x",
            hosts=[
                Host(name="a", state="here", epoch=1, lease=4.5),
                Host(name="b", state="living", epoch=2, lease=3.0),
            ],
        ),
    }
    return Figures(**(given | more))


def snapshot(workers: int = 2, **more: Any) -> Snapshot:
    """The same, with what processes hold."""
    found = figures(workers, **more)
    titles = ["supervisor", *found.workers.counted, *found.tls.counted]
    return Snapshot.of(found, dict.fromkeys(titles, Held(30 << 20, 25)))
