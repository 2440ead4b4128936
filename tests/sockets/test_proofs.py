"""Both clients with a proof of identity, against a server of the contract over real sockets."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import pytest
from support.leftovers import nothing_left_behind
from support.named_peer import NamedServer
from support.threaded_chat import InThreads, soon
from support.waiting import PATIENCE

from mpchat import connect
from mpchat.client.conversation import State
from mpchat.client.core import Disconnected, Lost, Message, Moderated, Refused, Rejected, Welcome
from mpchat.errors import ConnectionLostError, ProtocolError, RefusedError


class Everything(InThreads):
    """The blocking client with all its methods, each call in a thread."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.chat, name)
        if not callable(value):
            return value

        async def call(*args: Any, **options: Any) -> Any:
            return await asyncio.to_thread(value, *args, **options)

        return call


Connect = Callable[..., Any]
Run = Callable[[Callable[[Connect, NamedServer], Awaitable[None]]], None]
E = TypeVar("E")


@pytest.fixture(params=[connect, Everything], ids=["aio", "blocking"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Run a scenario on one of the clients; no descriptor and no thread may be left behind."""

    def with_server(scenario: Callable[[Connect, NamedServer], Awaitable[None]]) -> None:
        with NamedServer() as server:
            asyncio.run(asyncio.wait_for(scenario(request.param, server), 3 * PATIENCE))

    with nothing_left_behind():
        yield with_server


async def event_of(chat: Any, kind: type[E]) -> E:
    while not isinstance(event := await chat.next_event(PATIENCE), kind):
        pass
    return event


def over(*tokens: str) -> Callable[[dict[str, Any]], str]:
    """Judge joins: all but those with these tokens are granted."""
    return lambda join: "expired" if join.get("jwt") in tokens else ""


@pytest.mark.parametrize("kind", ["password", "jwt", "secret"])
def test_the_first_join_of_each_connection_shows_the_proof(run: Run, kind: str) -> None:
    async def scenario(connect: Connect, server: NamedServer) -> None:
        async with connect(port=server.port, name="앨리스", room="게임방", **{kind: "열쇠"}) as chat:
            await chat.enter("복도")
            server.drop()
            await soon(lambda: len(server.joins) == 3, "the join after the loss")
            assert [each.get(kind) for each in server.joins] == ["열쇠", None, "열쇠"]
            await chat.send("다시 왔다")
            assert (await chat.recv(PATIENCE)).text == "다시 왔다"

    run(scenario)


def test_a_token_is_enough_to_be_a_member(run: Run) -> None:
    async def scenario(connect: Connect, server: NamedServer) -> None:
        server.subject, server.facts = "앨리스", {"role": "operator", "expires": 4e9}
        async with connect(port=server.port, jwt=lambda: "토큰") as chat:
            assert (chat.name, chat.role, chat.expires) == ("앨리스", "operator", 4e9)
            assert server.joins == [{"room": "lobby", "jwt": "토큰"}]
            server.facts = {}
        async with connect(port=server.port) as plain:
            assert (plain.role, plain.expires) == (None, None)
            assert (await plain.join("밥", password="열쇠")).name == "밥"
            assert plain.role == "member"
            server.drop()
            await soon(lambda: len(server.joins) == 3, "the join after the loss")
            assert server.joins[2]["password"] == "열쇠"

    run(scenario)


@pytest.mark.parametrize("code", ["auth_required", "bad_credentials", "not_allowed", "expired", "try_later"])
def test_a_first_join_that_is_refused(run: Run, code: str) -> None:
    async def scenario(connect: Connect, server: NamedServer) -> None:
        server.refuse = code
        with pytest.raises(RefusedError) as refused:
            async with connect(port=server.port, name="앨리스", jwt=lambda: "열쇠"):
                pass
        assert refused.value.code == code
        assert refused.value.proofs == (("password", "jwt") if code == "auth_required" else ())
        assert "열쇠" not in repr(refused.value)
        assert len(server.joins) == 1

    run(scenario)


def test_what_was_given_wrong_is_told_before_a_connection(run: Run) -> None:
    async def scenario(connect: Connect, server: NamedServer) -> None:
        def fails() -> str:
            raise LookupError("no token today")

        for error, options in (
            (ValueError, {"name": "앨리스", "password": "a", "secret": "b"}),
            (ValueError, {"password": "a"}),
            (ProtocolError, {"name": "앨리스", "password": "\ud800"}),
            (LookupError, {"jwt": fails}),
        ):
            with pytest.raises(error):
                async with connect(port=server.port, **options):
                    pass
        assert server.joins == []

    run(scenario)


def test_a_token_that_ends_is_replaced_and_nothing_is_lost_or_doubled(run: Run) -> None:
    async def scenario(connect: Connect, server: NamedServer) -> None:
        tokens = iter(["하나", "둘", "셋"])
        async with connect(port=server.port, name="앨리스", jwt=lambda: next(tokens)) as chat:
            server.say("하나")
            server.judge = over("하나")
            server.send({"error": {"code": "expired", "text": "the token has ended"}})
            server.drop()
            server.say("둘")
            await soon(lambda: len(server.joins) == 2, "the join with the fresh token")
            assert server.joins[1]["jwt"] == "둘"
            server.say("셋")
            seen: list[str] = []
            while "셋" not in seen:
                event = await chat.next_event(PATIENCE)
                assert not isinstance(event, Lost)
                seen += [event.text] if isinstance(event, Message) else []
            assert seen[-2:] == ["둘", "셋"]
            assert len(seen) == len(set(seen))

    run(scenario)


def test_a_token_that_cannot_be_replaced_ends_the_chat(run: Run) -> None:
    async def scenario(connect: Connect, server: NamedServer) -> None:
        async with connect(port=server.port, name="앨리스", jwt="하나") as chat:
            server.send({"error": {"code": "expired", "text": "the token has ended"}})
            assert not (await event_of(chat, Rejected)).retrying
            with pytest.raises(ConnectionLostError, match="expired"):
                await chat.recv(PATIENCE)
            assert chat.state is State.LOST
            assert len(server.joins) == 1

    run(scenario)


def test_a_fresh_token_that_is_over_too_ends_the_chat(run: Run) -> None:
    async def scenario(connect: Connect, server: NamedServer) -> None:
        tokens = iter("123456")
        async with connect(port=server.port, name="앨리스", jwt=lambda: next(tokens)) as chat:
            server.judge = over(*"23456")
            server.drop()
            # The first rejection may be told together with the loss that follows it.
            while (await event_of(chat, Rejected)).retrying:
                pass
            with pytest.raises(ConnectionLostError, match="expired"):
                await chat.recv(PATIENCE)
            assert [each["jwt"] for each in server.joins] == ["1", "2", "3"]

    run(scenario)


def test_a_function_that_fails_is_asked_again(run: Run) -> None:
    async def scenario(connect: Connect, server: NamedServer) -> None:
        asked: list[str] = []

        def token() -> str:
            asked.append("토큰")
            if len(asked) == 2:
                raise OSError("the key server is away")
            return f"토큰 {len(asked)}"

        async with connect(port=server.port, name="앨리스", jwt=token) as chat:
            server.drop()
            rejected = await event_of(chat, Rejected)
            assert (rejected.code, rejected.text) == ("no_token", "OSError")
            assert rejected.retrying
            await event_of(chat, Welcome)
            assert server.joins[1]["jwt"] == "토큰 3"

    run(scenario)


def test_a_token_is_renewed_in_the_same_room(run: Run) -> None:
    async def scenario(connect: Connect, server: NamedServer) -> None:
        server.facts = {"expires": 4e9}
        async with connect(port=server.port, name="앨리스", room="게임방", jwt="하나") as chat:
            server.say("한 번만", room="게임방")
            server.facts = {"expires": 5e9}
            assert (await chat.renew("둘")).room == "게임방"
            assert (server.joins[1], chat.expires, chat.room) == ({"jwt": "둘"}, 5e9, "게임방")
            await chat.send("끝")
            assert [(await chat.recv(PATIENCE)).text for _ in range(2)] == ["한 번만", "끝"]
            server.refuse = "bad_credentials"
            with pytest.raises(RefusedError, match="bad_credentials"):
                await chat.renew("셋")
            server.refuse = ""
            with pytest.raises(ValueError, match="no function"):
                await chat.renew()
            await chat.renew(lambda: "넷")
            await chat.renew()
            assert [each["jwt"] for each in server.joins[3:]] == ["넷", "넷"]

    run(scenario)


def test_a_fresh_token_that_crosses_the_end_of_the_old_one(run: Run) -> None:
    async def scenario(connect: Connect, server: NamedServer) -> None:
        def ended(request: dict[str, Any]) -> bool:
            if request != {"join": {"jwt": "둘"}}:
                return False
            server.send({"error": {"code": "expired", "text": "the token has ended"}})
            server.drop()
            return True

        server.ignore = ended
        async with connect(port=server.port, name="앨리스", jwt="하나") as chat:
            server.judge = over("하나")
            with pytest.raises(RefusedError, match="expired"):
                await chat.renew("둘")
            await event_of(chat, Welcome)
            assert (await event_of(chat, Welcome)).name == "앨리스"
            assert server.joins[-1]["jwt"] == "둘"

    run(scenario)


def test_a_join_that_fits_no_frame_is_a_loss(run: Run) -> None:
    """A join after a loss is longer than the first: a server may drive it past the limit."""

    async def scenario(connect: Connect, server: NamedServer) -> None:
        # In JSON each character of the token takes six bytes.
        password, server.facts = "x" * 59_900, {"token": "\1" * 960}
        async with connect(port=server.port, name="밥", password=password) as chat:
            server.drop()
            lost: list[Disconnected] = []
            while len(lost) < 2:
                lost.append(await event_of(chat, Disconnected))
            assert "a frame 65535" in lost[1].reason
            assert lost[1].retrying
            assert len(server.joins) == 1

    run(scenario)


def test_an_operators_requests(run: Run) -> None:
    async def scenario(connect: Connect, server: NamedServer) -> None:
        server.facts = {"role": "operator"}
        async with connect(port=server.port, name="앨리스", password="열쇠") as chat:
            assert await chat.kick("밥") == Moderated("kick", "밥", 1)
            await chat.ban("192.0.2.0/24", 600)
            await chat.ban("밥")
            await chat.unban("밥")
            await chat.mute("밥", seconds=1.5)
            await chat.unmute("밥")
            assert await chat.close_room("게임방") == Moderated("close", "게임방", 3)
            assert server.received == [
                {"kick": {"name": "밥"}},
                {"ban": {"name": "192.0.2.0/24", "for": 600}},
                {"ban": {"name": "밥"}},
                {"unban": {"name": "밥"}},
                {"mute": {"name": "밥", "for": 1.5}},
                {"unmute": {"name": "밥"}},
                {"close": {"room": "게임방"}},
            ]
            for seconds in (0.5, float("nan"), float("inf")):
                with pytest.raises(ValueError, match="lasts 1 to"):
                    await chat.ban("밥", seconds)
            with pytest.raises(ProtocolError, match="at most 20 characters"):
                await chat.kick("밥" * 1000)
            assert len(server.received) == 7
            server.facts = {}
            with pytest.raises(RefusedError, match="not_allowed"):
                await chat.kick("밥")

    run(scenario)


@pytest.mark.parametrize("kind", ["password", "jwt", "secret"])
def test_a_join_after_a_message_in_a_closed_chat_keeps_its_proof(run: Run, kind: str) -> None:
    async def scenario(connect: Connect, server: NamedServer) -> None:
        def barred(request: dict[str, Any]) -> bool:
            for guest in server._guests:
                if not guest.name and "message" in request:
                    server._refuse(guest, "auth_required", "이 서버는 증명을 원합니다")
            return "message" in request

        server.ignore = barred
        async with connect(port=server.port) as chat:
            await chat.send("안녕")
            await chat.join("민아", **{kind: "열쇠"})
            assert (await event_of(chat, Refused)).code == "auth_required"
            server.drop()
            await soon(lambda: len(server.joins) == 2, "the join after the loss")
            assert server.joins[1][kind] == "열쇠"

    run(scenario)


def test_a_kick_after_a_private_message_to_nobody_gets_its_own_answer(run: Run) -> None:
    async def scenario(connect: Connect, server: NamedServer) -> None:
        server.facts = {"role": "operator"}
        async with connect(port=server.port, name="앨리스", password="열쇠") as chat:
            await chat.tell("없다", "안녕")
            assert await chat.kick("밥") == Moderated("kick", "밥", 1)
            assert await chat.kick("수") == Moderated("kick", "수", 1)
            assert (await event_of(chat, Refused)).code == "no_such_name"

    run(scenario)


def test_a_plain_client_at_a_closed_server_gets_the_error_as_any_other(run: Run) -> None:
    async def scenario(connect: Connect, server: NamedServer) -> None:
        def closed(request: dict[str, Any]) -> bool:
            for guest in server._guests:
                server._refuse(guest, "auth_required", "이 서버는 증명을 원합니다")
            return True

        server.ignore = closed
        async with connect(port=server.port) as chat:
            await chat.send("안녕")
            with pytest.raises(RefusedError) as refused:
                await chat.recv(PATIENCE)
            assert (refused.value.code, refused.value.proofs) == ("auth_required", ("password", "jwt"))
            assert chat.state is State.CONNECTED

    run(scenario)
