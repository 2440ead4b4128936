"""The shortest way through everything: start, chat, be refused a second start, stop."""

import pytest
from support.harness import Server, clients

pytestmark = pytest.mark.usefixtures("commands_apart")


def test_a_server_starts_chats_refuses_a_second_start_and_stops(server: Server) -> None:
    with clients(server, 3) as (alice, bob, carol):
        alice.say("안녕하세요 👋")
        assert [each.hear() for each in (alice, bob, carol)] == ["안녕하세요 👋"] * 3
        carol.say("먼저 갑니다")
        assert [each.hear() for each in (alice, bob, carol)] == ["먼저 갑니다"] * 3
        gone = carol.address
        carol.close()
        assert [each.hear() for each in (alice, bob)] == [f" Disconnect : {gone} "] * 2

    second = server.command("start", "--port", "0")
    assert second.returncode == 4
    assert second.stderr.count("\n") == 1
    assert f"pid {server.pid}" in second.stderr

    assert server.stop().returncode == 0
    assert server.command("status").returncode == 3
