"""Both clients with a name, against a server of the contract over real sockets; scenarios run on either."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import pytest
from support.leftovers import nothing_left_behind
from support.named_peer import BEGINNING, RECENT, Hall, NamedServer
from support.peers import Relay
from support.threaded_chat import InThreads, soon
from support.waiting import PATIENCE

from mpchat import connect
from mpchat.client.conversation import State
from mpchat.client.core import (
    Disconnected,
    Event,
    Joined,
    Left,
    Lost,
    Message,
    Refused,
    Rejected,
    Rooms,
    RoomSize,
    Welcome,
    Who,
)
from mpchat.errors import ConnectionLostError, ProtocolError, RefusedError, TimedOutError


class BlockingInThreads(InThreads):
    """The blocking client with all its methods, each call in a thread."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.chat, name)
        if not callable(value):
            return value

        async def call(*args: Any, **options: Any) -> Any:
            return await asyncio.to_thread(value, *args, **options)

        return call


Scenario = Callable[[Callable[..., Any]], Awaitable[None]]
Run = Callable[[Scenario], None]
E = TypeVar("E")


@pytest.fixture(params=[connect, BlockingInThreads], ids=["aio", "blocking"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Run a scenario on one of the clients; no descriptor and no thread may be left behind."""
    with nothing_left_behind():
        yield lambda scenario: asyncio.run(asyncio.wait_for(scenario(request.param), 3 * PATIENCE))


async def event_of(chat: Any, kind: type[E]) -> E:
    while not isinstance(event := await chat.next_event(PATIENCE), kind):
        pass
    return event


async def seqs(chat: Any, until: int) -> list[int]:
    """Return the numbers of what arrives, up to ``until``; anything lost fails."""
    seen: list[int] = []
    while until not in seen:
        event: Event = await chat.next_event(PATIENCE)
        assert not isinstance(event, Lost)
        if isinstance(event, Message) and event.seq is not None:
            seen.append(event.seq)
    return seen


def test_a_name_a_room_and_what_was_said_before(run: Run) -> None:
    async def scenario(connect: Callable[..., Any]) -> None:
        with NamedServer() as server:
            for number in range(1, 6):
                server.say(f"전에 {number}", room="게임방")
            async with connect(port=server.port, name="앨리스", room="게임방") as alice:
                assert (alice.name, alice.room) == ("앨리스", "게임방")
                assert server.members("게임방") == ["앨리스"]
                await alice.send("안녕")
                welcome = await event_of(alice, Welcome)
                assert (welcome.seq, welcome.members, welcome.token) == (5, 1, alice.token)
                said = [await alice.recv(PATIENCE) for _ in range(RECENT + 1)]
                assert [each.text for each in said] == ["전에 3", "전에 4", "전에 5", "안녕"]
                assert said[-1] == Message("안녕", "앨리스", "게임방", 6, BEGINNING + 6)

    run(scenario)


def test_others_come_and_go(run: Run) -> None:
    async def scenario(connect: Callable[..., Any]) -> None:
        with NamedServer() as server:
            async with connect(port=server.port, name="앨리스") as alice:
                async with connect(port=server.port, name="밥") as bob:
                    assert await event_of(alice, Joined) == Joined("lobby", ("밥",), 1, 2)
                    assert await alice.who() == Who("lobby", ("밥", "앨리스"), 2)
                    await bob.enter("game-7")
                    assert bob.room == "game-7"
                    assert await event_of(alice, Left) == Left("lobby", ("밥",), 1, 1, "moved")
                    assert await alice.who("game-7") == Who("game-7", ("밥",), 1)
                    sizes = (RoomSize("game-7", 1), RoomSize("lobby", 1))
                    assert await alice.rooms() == Rooms(sizes, 2)
                    await bob.tell("앨리스", "귓속말")
                    private = Message("귓속말", "밥", at=BEGINNING, to="앨리스")
                    assert await alice.recv(PATIENCE) == private
                    assert await bob.recv(PATIENCE) == private
                    assert 0 <= await alice.ping() < PATIENCE

    run(scenario)


def test_older_messages_come_as_an_answer_and_not_again_as_events(run: Run) -> None:
    async def scenario(connect: Callable[..., Any]) -> None:
        with NamedServer() as server:
            for number in range(1, 61):
                server.say(f"{number}", None if number == 7 else "bob", room="게임방")
            async with connect(port=server.port, name="앨리스", room="게임방") as alice:
                newest = await alice.history()
                assert (newest.room, newest.next) == ("게임방", 11)
                assert [each.seq for each in newest.messages] == list(range(11, 61))
                page = await alice.history(newest.next, 4)
                bob, operator = page.messages[-1], page.messages[0]
                assert bob == Message("10", "bob", "게임방", 10, BEGINNING + 10)
                assert operator == Message("7", None, "게임방", 7, BEGINNING + 7)
                assert page.next == 7
                assert (await alice.history(2, 100)).next is None
                with pytest.raises(RefusedError, match="limit 101"):
                    await alice.history(2, 101)
                server.say("live", room="게임방")
                assert await seqs(alice, 61) == [58, 59, 60, 61]

    run(scenario)


def test_nobody_of_that_name(run: Run) -> None:
    async def scenario(connect: Callable[..., Any]) -> None:
        with NamedServer() as server:
            async with connect(port=server.port, name="앨리스") as alice:
                await alice.tell("nobody", "psst")
                assert await event_of(alice, Refused) == Refused("no_such_name", "there is no nobody")

    run(scenario)


def test_a_lost_connection_loses_no_message_and_doubles_none(run: Run) -> None:
    async def scenario(connect: Callable[..., Any]) -> None:
        with NamedServer() as server:
            server.twice = True
            async with connect(port=server.port, name="앨리스") as alice:
                for number in range(1, 31):
                    server.say(f"{number}")
                    if number % 10 == 5:
                        server.drop()
                assert await seqs(alice, 30) == list(range(1, 31))
                await soon(lambda: server.members() == ["앨리스"], "the name back in its room")
                assert all(join["token"] == alice.token for join in server.joins[1:])

    run(scenario)


def test_a_restart_of_the_server_that_remembers(run: Run) -> None:
    async def scenario(connect: Callable[..., Any]) -> None:
        hall = Hall()
        with NamedServer(hall) as first:
            async with connect(port=first.port, name="앨리스", send_timeout=PATIENCE) as alice:
                first.say("before")
                assert await seqs(alice, 1) == [1]
                await asyncio.to_thread(first.stop)
                await event_of(alice, Disconnected)
                hall.add("lobby", "meanwhile", "bob")
                # Said while there is no server: it waits until one has one's name again.
                sending = asyncio.create_task(alice.send("안녕, 다시"))
                with await asyncio.to_thread(NamedServer, hall, first.port) as second:
                    await sending
                    assert (await alice.recv(PATIENCE)).text == "meanwhile"
                    again = await alice.recv(PATIENCE)
                    assert (again.text, again.sender, again.seq) == ("안녕, 다시", "앨리스", 3)
                    assert [join["after"] for join in second.joins] == [1]

    run(scenario)


def test_a_server_that_forgot_or_numbers_anew_says_so(run: Run) -> None:
    async def scenario(connect: Callable[..., Any]) -> None:
        hall = Hall(kept=2)
        with NamedServer(hall) as server:
            async with connect(port=server.port, name="앨리스") as alice:
                server.say("1")
                assert await seqs(alice, 1) == [1]
                # Unnoticed until then, and so missed.
                server.skip = {2, 3, 4, 5}
                for number in range(2, 6):
                    server.say(f"{number}")
                server.drop()
                assert await event_of(alice, Lost) == Lost("lobby", 2, 3)
                assert await seqs(alice, 5) == [4, 5]
                hall.renumber()
                hall.add("lobby", "new", "bob")
                server.drop()
                assert await event_of(alice, Lost) == Lost("lobby", 6, None)
                assert await seqs(alice, 1) == [1]

    run(scenario)


def test_a_number_that_is_left_out_is_lost(run: Run) -> None:
    async def scenario(connect: Callable[..., Any]) -> None:
        with NamedServer() as server:
            async with connect(port=server.port, name="앨리스") as alice:
                server.skip = {2, 3}
                for number in range(1, 5):
                    server.say(f"{number}")
                assert await event_of(alice, Lost) == Lost("lobby", 2, 3)
                assert (await alice.recv(PATIENCE)).seq == 4

    run(scenario)


def test_a_name_that_somebody_has(run: Run) -> None:
    async def scenario(connect: Callable[..., Any]) -> None:
        with NamedServer() as server:
            async with connect(port=server.port, name="앨리스", reconnect=False) as alice:
                with pytest.raises(RefusedError) as refused:
                    async with connect(port=server.port, name="앨리스"):
                        pass
                assert refused.value.code == "name_taken"
                # With the token one is the owner, and the earlier connection the ghost.
                async with connect(port=server.port, name="앨리스", token=alice.token):
                    assert await event_of(alice, Disconnected)

    run(scenario)


def test_a_name_that_is_taken_meanwhile_is_asked_for_again(run: Run) -> None:
    async def scenario(connect: Callable[..., Any]) -> None:
        with NamedServer() as server:
            async with connect(port=server.port, name="앨리스") as alice:
                server.refuse = "name_taken"
                server.drop()
                rejected = await event_of(alice, Rejected)
                expected = Rejected("앨리스", "lobby", "name_taken", "no name_taken today", retrying=True)
                assert rejected == expected
                server.refuse = ""
                await alice.send("들어왔다")
                assert (await alice.recv(PATIENCE)).sender == "앨리스"

    run(scenario)


def test_nothing_is_said_before_one_is_let_in_again(run: Run) -> None:
    async def scenario(connect: Callable[..., Any]) -> None:
        with NamedServer() as server:
            async with connect(port=server.port, name="앨리스", send_timeout=0.3) as alice:
                server.ignore = lambda request: "join" in request
                server.drop()
                await soon(lambda: len(server.joins) == 2, "the second join")
                assert alice.state is State.CONNECTED
                with pytest.raises(TimedOutError, match="no answer"):
                    await alice.send("who hears this knows no name")
                with pytest.raises(TimedOutError, match="no answer"):
                    await alice.who()
                assert server.received == []

    run(scenario)


def test_a_name_that_is_wrong_by_now_is_the_end(run: Run) -> None:
    async def scenario(connect: Callable[..., Any]) -> None:
        with NamedServer() as server:
            async with connect(port=server.port, name="앨리스") as alice:
                server.refuse = "bad_name"
                server.drop()
                assert not (await event_of(alice, Rejected)).retrying
                with pytest.raises(ConnectionLostError, match="bad_name"):
                    await alice.recv(PATIENCE)
                assert alice.state is State.LOST
                # Nothing is said without the name.
                with pytest.raises(ConnectionLostError):
                    await alice.send("psst")
                assert server.received == []

    run(scenario)


def test_a_kick_is_told_and_is_the_end(run: Run) -> None:
    async def scenario(connect: Callable[..., Any]) -> None:
        with NamedServer() as server:
            async with connect(port=server.port, name="앨리스") as alice:
                server.send({"error": {"code": "kicked", "text": "the operator"}})
                server.drop()
                rejected = await event_of(alice, Rejected)
                assert rejected == Rejected("앨리스", "lobby", "kicked", "the operator", retrying=False)
                assert not (await event_of(alice, Disconnected)).retrying
                with pytest.raises(ConnectionLostError, match="kicked"):
                    await alice.recv(PATIENCE)
                assert alice.state is State.LOST
                with pytest.raises(ConnectionLostError):
                    await alice.send("psst")
                assert (len(server.joins), server.received) == (1, [])

    run(scenario)


def test_a_refused_room_changes_nothing(run: Run) -> None:
    async def scenario(connect: Callable[..., Any]) -> None:
        with NamedServer() as server:
            async with connect(port=server.port, name="앨리스") as alice:
                server.refuse = "room_full"
                with pytest.raises(RefusedError, match="room_full"):
                    await alice.enter("game-7")
                await alice.send("still here")
                assert (await alice.recv(PATIENCE)).room == "lobby"

    run(scenario)


def test_the_welcome_after_a_closed_room_answers_no_join(run: Run) -> None:
    async def scenario(connect: Callable[..., Any]) -> None:
        with NamedServer() as server:
            async with connect(port=server.port, name="앨리스", room="closing") as alice:
                server.ignore = lambda request: "join" in request
                entering = asyncio.create_task(alice.enter("game-7"))
                await soon(lambda: len(server.joins) == 2, "the second join")
                close_room(server)
                server.send(error("room_full"))
                with pytest.raises(RefusedError, match="room_full"):
                    await entering
                assert alice.room == "lobby"
                server.ignore = lambda request: False
                assert (await alice.enter("game-8")).room == "game-8"

    run(scenario)


def test_a_room_closed_at_the_loss_of_the_connection(run: Run) -> None:
    async def scenario(connect: Callable[..., Any]) -> None:
        with NamedServer() as server:
            async with connect(port=server.port, name="앨리스", room="closing") as alice:
                server.send(error("room_closed"))
                server.drop()
                await event_of(alice, Disconnected)
                await event_of(alice, Welcome)
                # The welcome has answered the join of the second connection.
                assert (await alice.enter("game-7")).room == "game-7"

    run(scenario)


def error(code: str) -> dict[str, Any]:
    return {"error": {"code": code, "text": f"no {code} today"}}


def close_room(server: NamedServer) -> None:
    """Send what a member of a closed room gets."""
    server.send(error("room_closed"))
    facts = {"name": "앨리스", "room": "lobby", "seq": 0, "epoch": server.hall.epoch, "members": 1}
    server.send({"welcome": {**facts, "recovered": False, "lost": None, "token": "t"}})


def test_a_name_taken_later(run: Run) -> None:
    async def scenario(connect: Callable[..., Any]) -> None:
        with NamedServer() as server:
            async with connect(port=server.port) as chat:
                assert chat.name is None
                await chat.send("plain")
                assert await chat.recv(PATIENCE) == Message("plain")
                with pytest.raises(RefusedError, match="not_joined"):
                    await chat.who()
                server.refuse = "bad_name"
                with pytest.raises(RefusedError, match="bad_name"):
                    await chat.join("!")
                server.refuse = ""
                assert (await chat.join("앨리스", "게임방")).room == "게임방"
                await chat.send("named")
                assert (await chat.recv(PATIENCE)).sender == "앨리스"
                server.drop()
                await soon(lambda: server.members("게임방") == ["앨리스"], "the name back in its room")

    run(scenario)


def test_a_server_of_old_that_knows_no_names(run: Run) -> None:
    async def scenario(connect: Callable[..., Any]) -> None:
        # It would call a join no message; a relay sends it back, which is no answer at all.
        with Relay() as relay:
            with pytest.raises(TimedOutError, match="no answer"):
                async with connect(port=relay.port, name="앨리스", open_timeout=0.3):
                    pass
            await soon(lambda: not relay.clients, "the connection to be closed")

    run(scenario)


def test_a_name_that_is_far_too_long_is_not_sent(run: Run) -> None:
    async def scenario(connect: Callable[..., Any]) -> None:
        with NamedServer() as server:
            async with connect(port=server.port, name="앨리스") as alice:
                room, name = 129 * "방", 81 * "밥"
                cases: list[tuple[str, Callable[[], Awaitable[Any]]]] = [
                    ("bad_room", lambda: alice.enter(room)),
                    ("bad_room", lambda: alice.join("앨리스", room)),
                    ("bad_room", lambda: alice.who(room)),
                    ("bad_room", lambda: alice.rooms(after=room)),
                    ("bad_name", lambda: alice.join(name)),
                    ("bad_name", lambda: alice.who(after=name)),
                ]
                for code, ask in cases:
                    with pytest.raises(ProtocolError, match="has at most") as wrong:
                        await ask()
                    assert wrong.value.code == code
                # A name that is shorter is sent: the server decides about it.
                assert (await alice.enter(128 * "방")).room == 128 * "방"
                assert [join.get("room") for join in server.joins] == ["lobby", 128 * "방"]
                assert server.received == []

    run(scenario)


def test_a_question_without_an_answer_and_the_next(run: Run) -> None:
    async def scenario(connect: Callable[..., Any]) -> None:
        with NamedServer() as server:
            server.ignore = lambda request: "who" in request
            async with connect(port=server.port, name="앨리스", send_timeout=0.3) as alice:
                with pytest.raises(TimedOutError, match="no answer"):
                    await alice.who()
                assert (await alice.rooms()).count == 1
                server.ignore = lambda request: False
                assert (await alice.who()).names == ("앨리스",)

    run(scenario)


def test_a_question_when_the_connection_is_lost(run: Run) -> None:
    async def scenario(connect: Callable[..., Any]) -> None:
        with NamedServer() as server:
            server.ignore = lambda request: "who" in request
            async with connect(port=server.port, name="앨리스", send_timeout=PATIENCE) as alice:
                asking = asyncio.create_task(alice.who())
                await soon(lambda: {"who": {}} in server.received, "the question")
                server.drop()
                with pytest.raises(ConnectionLostError, match="before the answer came"):
                    await asking
                # The next one waits until there is a connection that may ask.
                assert (await alice.rooms()).count == 1

    run(scenario)


def test_a_cancelled_question_leaves_the_next_ones_alone() -> None:
    async def scenario() -> None:
        with NamedServer() as server:
            async with connect(port=server.port, name="앨리스") as alice:
                for number in range(100):
                    asking = asyncio.create_task(alice.who())
                    for _ in range(number % 4):
                        await asyncio.sleep(0)
                    asking.cancel()
                    await asyncio.gather(asking, return_exceptions=True)
                assert (await alice.who("nowhere")).room == "nowhere"
                assert (await alice.rooms()).count == 1

    asyncio.run(scenario())
