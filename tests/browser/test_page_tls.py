"""The page in a real Chromium over TLS, with unencrypted clients in the same room."""

from pathlib import Path

import pytest
from support.browsers import Desk, chromium
from support.changing import reload
from support.harness import clients, running
from support.members import members
from support.tls import Authority
from support.tls_peer import TlsMember, tls_pids

pytestmark = pytest.mark.one_python


def test_the_page_over_https_chats_with_unencrypted_clients_through_a_reload(folder: Path) -> None:
    authority = Authority(folder)
    chain, key = authority.issue("127.0.0.1")
    with (
        chromium(any_certificate=True) as browser,
        running(folder, "--tls-cert", str(chain), "--tls-key", str(key)) as server,
        Desk(browser, server.address, "https") as desk,
        clients(server, 1) as [plain],
        members(server.address, "bob") as [bob],
    ):
        alice = desk.window("alice")
        assert alice.find("[location.protocol, isSecureContext].join()") == "https:,true"
        process = tls_pids(server)
        alice.say("from the page")
        assert plain.hear() == "alice: from the page"
        assert bob.hear_from_room("from the page")["from"] == "alice"
        plain.say("from a plain one")
        alice.hears("from a plain one")
        bob.ask(message="from bob")
        alice.hears("from a plain one", "from bob")
        assert reload(server)["moved"] >= 3
        with TlsMember(server.address, authority) as carol:
            carol.join("carol")
            carol.ask(message="after the reload")
            alice.hears("after the reload")
            alice.say("all are here")
            assert carol.hear_from_room("all are here")["from"] == "alice"
        assert plain.hear_until("alice: all are here")[-2:] == [
            "carol: after the reload",
            "alice: all are here",
        ]
        assert bob.hear_from_room("all are here")
        assert not [note for note in alice.notes() if note == "Connected again."]
        assert tls_pids(server) == process
