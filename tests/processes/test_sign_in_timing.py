"""How long a server takes to refuse: a client must not learn from it which names are registered."""

import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from support.changing import configured
from support.harness import Client, Server
from support.signing_in import join

from mpchat.auth.accounts import Accounts
from mpchat.auth.passwords import hash_password
from scripts.common.sign_in import Proofs

pytestmark = pytest.mark.one_python

# How often each kind of name is tried. Each try has its own address and name, or it would have to wait.
ROUNDS = 12
# By how much the CPU time of the two may differ. Without a hash for names that are not registered it would be
# a hundred times as much for one of them.
FACTOR = 1.5


@pytest.fixture(params=["names", "closed"])
def server(folder: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server with many registered names: of one password, because to hash it takes 0.2 s of CPU."""
    place = folder / "files"
    place.mkdir(mode=0o700)
    proofs = Proofs(place, "앨리스")
    accounts, stored = Accounts(place / "accounts.db"), hash_password("맞는 비밀번호입니다")
    for number in range(ROUNDS):
        accounts.add(f"회원{number}", stored)
    accounts.close()
    with configured(folder, workers=1, auth=request.param, **proofs.settings) as started:
        yield started


def refuse(server: Server, name: str, source: str) -> tuple[float, float]:
    """Have a wrong password refused; return how long that took, and the supervisor's CPU time (seconds)."""
    supervisor = psutil.Process(server.pid)
    with ExitStack() as stack:
        client = stack.enter_context(Client(server.address, source=source))
        before, began = supervisor.cpu_times(), time.monotonic()
        answer = join(client, name=name, password="틀린 비밀번호")
        took, after = time.monotonic() - began, supervisor.cpu_times()
    assert answer["error"]["code"] == "bad_credentials"
    return took, after.user + after.system - before.user - before.system


def measure(server: Server, rounds: int) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Return what it took for registered names and for others, in turn."""
    refuse(server, "처음", "127.7.255.1")  # the first check of all reads files
    registered, unknown = [], []
    for number in range(rounds):
        registered.append(refuse(server, f"회원{number}", f"127.7.0.{number + 1}"))
        unknown.append(refuse(server, f"모름{number}", f"127.7.1.{number + 1}"))
    return registered, unknown


def test_a_wrong_password_and_a_name_that_is_not_registered_cost_the_same(server: Server) -> None:
    registered, unknown = measure(server, ROUNDS)
    times = [statistics.median(took for took, _ in each) for each in (registered, unknown)]
    costs = [sum(cpu for _, cpu in each) for each in (registered, unknown)]
    assert max(costs) < FACTOR * min(costs), f"CPU {costs} s, medians of the times {times} s"
    assert min(costs) > ROUNDS * 0.02  # the hash is made at all
