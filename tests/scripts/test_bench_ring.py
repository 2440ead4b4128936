"""The bench of io_uring, without the package that it needs: it says so, and the loop sends."""

import sys

import pytest
from click.testing import CliRunner

from scripts.bench import ring


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "liburing", None)
    result = CliRunner().invoke(ring.main, ["--sockets", "2", "--rounds", "3"])
    assert (result.exit_code, "pip install liburing" in result.output) == (1, True)


def test_both_ends_of_each_pair_are_connected() -> None:
    with ring.pairs(3) as ends:
        for number, (server, client) in enumerate(ends):
            server.send(b"%d" % number)
            client.setblocking(True)
            assert client.recv(10) == b"%d" % number
