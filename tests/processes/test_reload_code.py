"""A reload brings new code to the workers: what is installed by then serves, on the same connections."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.changing import NOT_STARTED, change, reload, workers_of
from support.crowd import descriptors, facts
from support.harness import Client, Server, clients, settle
from support.waiting import eventually

import mpchat

# The command must find the test's copy of the code too.
pytestmark = pytest.mark.usefixtures("commands_apart")

MESSAGES = "protocol/messages.py"


@pytest.fixture
def copied(folder: Path) -> Iterator[Server]:
    """A server that runs from a copy of the package."""
    home = folder / "home"
    # With what is compiled, and the times that it is compared by: only what a test edits is compiled again.
    shutil.copytree(Path(mpchat.__file__).parent, home / "mpchat")
    server = Server(folder)
    server.environment["PYTHONPATH"] = os.pathsep.join(
        [str(home), *filter(None, [server.environment.get("PYTHONPATH")])]
    )
    try:
        # The command of the copy: this process has loaded another one.
        started = server.command("start", "--port", "0", "--workers", "1")
        assert started.returncode == 0, started.stderr
        yield server
    finally:
        server.end()


def edit(server: Server, module: str, old: str, new: str) -> None:
    """Change the code, and how long it is, as a new version does."""
    path = server.folder / "home" / "mpchat" / module
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def answer_to_an_empty_frame(client: Client) -> str:
    client.send_raw(b"\0\0")
    received = client.receive()
    assert received is not None
    return str(received["error"]["text"])


def test_new_code_answers_on_the_same_connection(copied: Server) -> None:
    with clients(copied, 2) as (one, other):
        assert answer_to_an_empty_frame(one) == "the frame is empty"
        edit(copied, MESSAGES, '"the frame is empty"', '"the frame is as empty as ever"')
        assert answer_to_an_empty_frame(one) == "the frame is empty", "not before a reload"
        assert reload(copied)["moved"] == 2
        for each in (one, other):
            assert answer_to_an_empty_frame(each) == "the frame is as empty as ever"
        edit(copied, MESSAGES, '"the frame is as empty as ever"', '"nothing in it"')
        assert reload(copied)["moved"] == 2
        assert answer_to_an_empty_frame(other) == "nothing in it"
        one.say("and on")
        assert one.hear() == other.hear() == "and on"


# Code with which no worker starts: that cannot be read, that ends, that fails, that ends by a signal.
BROKEN = ("def wrong(:\n", "raise SystemExit(3)\n", "import no_such_module\n", "import os; os.abort()\n")


def test_code_that_cannot_start_leaves_the_old_workers_and_mended_it_comes(copied: Server) -> None:
    with clients(copied, 2) as (one, other):
        before, used = workers_of(copied), descriptors(copied)
        edit(copied, MESSAGES, '"the frame is empty"', '"the new text"')
        for broken in BROKEN:
            edit(copied, MESSAGES, "_encode = ", f"{broken}\n_encode = ")
            answer = change(copied, "reload")
            assert (answer.exit, answer.result["moved"], answer.result["lost"]) == (NOT_STARTED, 0, 0), broken
            assert "ended before it could serve" in answer.text
            assert workers_of(copied) == before
            found = facts(copied)
            assert found["generation"] == 1
            assert (found["last_reload"]["exit"], found["connections"]) == (NOT_STARTED, 2)
            eventually(lambda: descriptors(copied) == used, "descriptors to be given back")
            settle([one, other])
            one.say("still here")
            assert one.hear() == other.hear() == "still here"
            assert answer_to_an_empty_frame(one) == "the frame is empty"
            edit(copied, MESSAGES, f"{broken}\n_encode = ", "_encode = ")
        assert reload(copied)["moved"] == 2
        assert answer_to_an_empty_frame(one) == "the new text"
