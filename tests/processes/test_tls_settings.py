"""Certificates and the settings of TLS: at the start, and when a reload changes them under clients."""

import shutil
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.changing import change, configured, reload, write_settings
from support.crowd import everybody_hears, facts, listeners
from support.harness import Client, Server, kill, settle
from support.said import NOT_STARTED, USAGE, one_line
from support.tls import Authority
from support.tls_peer import TlsClient, TlsListener, tls_listeners, tls_of, tls_pids, tls_runs
from support.waiting import eventually

pytestmark = pytest.mark.one_python


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def paths(folder: Path, authority: Authority) -> tuple[Path, Path]:
    """A certificate and its key where the server looks for them."""
    return place(folder, authority.issue("127.0.0.1"))


def place(folder: Path, issued: tuple[Path, Path]) -> tuple[Path, Path]:
    """Put a chain and its key where the settings of the server in ``folder`` say they are."""
    chain, key = folder / "chain.pem", folder / "key.pem"
    for source, target in zip(issued, (chain, key), strict=True):
        target.unlink(missing_ok=True)
        shutil.copy(source, target)
    return chain, key


@pytest.fixture
def server(folder: Path, paths: tuple[Path, Path]) -> Iterator[Server]:
    with configured(folder, **with_tls(folder)) as started:
        yield started


def with_tls(folder: Path, **more: Any) -> dict[str, Any]:
    return {"tls_cert": f"{folder}/chain.pem", "tls_key": f"{folder}/key.pem", **more}


def shown(server: Server, authority: Authority) -> bytes | None:
    """Return the certificate that a new client is shown."""
    with TlsClient(server.address, authority) as client:
        return client.certificate


def der(chain: Path) -> bytes:
    first = chain.read_text().partition("-----END CERTIFICATE-----")
    return ssl.PEM_cert_to_DER_cert(first[0] + first[1])


def in_days(days: float) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


# What is wrong with the files, and what the command says of it.


def another_key(folder: Path, authority: Authority) -> str:
    shutil.copy(authority.issue("127.0.0.1", stem="another")[1], folder / "key.pem")
    return f"tls_key: {folder}/key.pem cannot be used with {folder}/chain.pem: it is the key of another"


def expired(folder: Path, authority: Authority) -> str:
    more = {"not_before": in_days(-9), "not_after": in_days(-1)}
    place(folder, authority.issue("127.0.0.1", stem="expired", **more))
    return f"tls_cert: {folder}/chain.pem expired on "


def of_tomorrow(folder: Path, authority: Authority) -> str:
    more = {"not_before": in_days(1), "not_after": in_days(9)}
    place(folder, authority.issue("127.0.0.1", stem="tomorrow", **more))
    return f"tls_cert: {folder}/chain.pem holds from "


def absent(folder: Path, authority: Authority) -> str:
    (folder / "chain.pem").unlink()
    return f"tls_cert: cannot read {folder}/chain.pem: No such file or directory"


def no_certificate(folder: Path, authority: Authority) -> str:
    (folder / "chain.pem").write_text("-----BEGIN CERTIFICATE-----\nhello\n-----END CERTIFICATE-----\n")
    return f"tls_cert: {folder}/chain.pem holds no certificate in PEM"


def key_for_all(folder: Path, authority: Authority) -> str:
    (folder / "key.pem").chmod(0o644)
    return f"tls_key: others may read or change {folder}/key.pem; chmod 640 it"


FAULTS = [another_key, expired, of_tomorrow, absent, no_certificate, key_for_all]


@pytest.mark.parametrize("spoil", FAULTS, ids=lambda fault: fault.__name__)
def test_a_start_with_files_that_are_wrong_says_what_is(
    folder: Path, paths: tuple[Path, Path], authority: Authority, spoil: Callable[[Path, Authority], str]
) -> None:
    said = spoil(folder, authority)
    server = Server(folder)
    write_settings(server, port=0, **with_tls(folder))
    try:
        assert said in one_line(server.run("start"), NOT_STARTED)
    finally:
        server.end()
    assert not (server.instance_folder / "control.sock").exists()


def test_tls_is_not_required_without_a_certificate(folder: Path) -> None:
    server = Server(folder)
    assert "tls is 'required', and tls_cert is not set" in one_line(
        server.run("start", "--port", "0", "--tls", "required"), USAGE
    )


def test_a_reload_with_files_that_are_wrong_changes_nothing(server: Server, authority: Authority) -> None:
    folder = server.folder
    certificate = shown(server, authority)
    with tls_listeners(server, authority, 2) as secure, listeners(server, 1) as plain:
        crowd = [*secure, *plain]
        before, workers = tls_of(server), facts(server)["workers"]
        for spoil in FAULTS:
            place(folder, authority.issue("127.0.0.1", stem="next"))
            said = spoil(folder, authority)
            told = one_line(server.command("reload"), NOT_STARTED)
            assert said in told
            assert "nothing has changed" in told
            assert shown(server, authority) == certificate
        crowd[0].say("all are here")
        everybody_hears(crowd, "all are here")
        assert tls_of(server)["expires"] == before["expires"]
        assert [each["pid"] for each in facts(server)["workers"]] == [each["pid"] for each in workers]
        assert facts(server)["generation"] == 1


def test_a_reload_shows_a_new_certificate_to_new_clients_and_drops_nobody(
    server: Server, authority: Authority
) -> None:
    before = tls_pids(server)
    with tls_listeners(server, authority, 3) as crowd:
        chain, _ = place(server.folder, authority.issue("127.0.0.1", "chat.example", stem="renewed"))
        assert crowd[0].certificate == shown(server, authority) != der(chain)
        reload(server)
        eventually(lambda: shown(server, authority) == der(chain), "the new certificate", 2.0)
        crowd[0].say("nobody is gone")
        everybody_hears(crowd, "nobody is gone")
    assert tls_pids(server) == before
    assert sorted(tls_of(server)["names"]) == ["127.0.0.1", "chat.example"]
    # Its successor shows what was checked, whatever the files hold by then.
    (server.folder / "key.pem").unlink()
    kill(before[0])
    assert shown(server, authority) == der(chain)
    assert tls_runs(server, 1, before)


def test_tls_is_switched_on_off_and_on_again_under_clients(
    folder: Path, paths: tuple[Path, Path], authority: Authority
) -> None:
    with configured(folder) as server, listeners(server, 2) as plain:
        assert facts(server)["tls"] is None
        with pytest.raises(OSError, match=r"WRONG_VERSION|wrong version|EOF|reset"):
            shown(server, authority)
        write_settings(server, port=0, workers=2, **with_tls(folder))
        reload(server)
        assert tls_of(server)["mode"] == "optional"
        with tls_listeners(server, authority, 2) as secure:
            crowd = [*plain, *secure]
            write_settings(server, port=0, workers=2, **with_tls(folder, tls="off"))
            reload(server)
            found = tls_of(server)
            assert (found["mode"], found["expires"]) == ("off", None)
            assert [each["connections"] for each in found["processes"]] == [2]
            with pytest.raises(OSError, match=r"WRONG_VERSION|wrong version|EOF|reset"):
                shown(server, authority)
            crowd[0].say("all stay")
            everybody_hears(crowd, "all stay")
            before = tls_pids(server)
            write_settings(server, port=0, workers=2, **with_tls(folder))
            reload(server)
            assert tls_runs(server, 1) == before
            assert shown(server, authority) == der(paths[0])
            secure[0].say("and go on")
            everybody_hears(crowd, "and go on")
            write_settings(server, port=0, workers=2)
            reload(server)
        eventually(lambda: facts(server)["tls"] is None, "TLS to be gone with its last client")
        plain[0].say("unencrypted ones too")
        everybody_hears(plain, "unencrypted ones too")


def test_an_unencrypted_client_is_told_what_is_wrong_when_tls_is_off(folder: Path) -> None:
    """Its first bytes are no frame: the answer is one, and says so."""
    with configured(folder) as server, Client(server.address) as client:
        client.send_raw(bytes((22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3)))
        told = client.receive()
        assert told is not None
        assert told["error"]["code"] == "bad_frame"


def test_tls_processes_are_added_and_removed_by_reloads(server: Server, authority: Authority) -> None:
    first = tls_runs(server, 1)
    with tls_listeners(server, authority, 2) as old:
        write_settings(server, port=0, workers=2, **with_tls(server.folder, tls_processes=3))
        reload(server)
        pids = tls_runs(server, 3)
        assert pids[0] == first[0]
        with tls_listeners(server, authority, 4) as new:
            assert [each["connections"] for each in tls_of(server)["processes"]] == [2, 2, 2]
            write_settings(server, port=0, workers=2, **with_tls(server.folder, tls_processes=1))
            reload(server)
            with TlsClient(server.address, authority) as late:
                settle([late])
                assert [each["connections"] for each in tls_of(server)["processes"]] == [3, 2, 2]
            new[-1].say("nobody is dropped")
            everybody_hears([*old, *new], "nobody is dropped")
        eventually(lambda: tls_pids(server) == first, "the others to end with their last clients")


def test_a_process_of_a_high_number_that_still_has_clients_does_not_stand_for_one_that_serves(
    folder: Path, paths: tuple[Path, Path], authority: Authority
) -> None:
    """The last client from before TLS was off is with process 2, when TLS is wanted again with one."""
    with configured(folder, **with_tls(folder, tls_processes=2)) as server, ExitStack() as stack:
        by_process: dict[int, TlsListener] = {}
        for _ in range(2):
            [client] = stack.enter_context(tls_listeners(server, authority, 1))
            busy = {each["slot"] for each in tls_of(server)["processes"] if each["connections"]}
            [slot] = busy - set(by_process)
            by_process[slot] = client
        pids, stays = tls_pids(server), by_process[2]
        write_settings(server, port=0, workers=2)
        reload(server)
        by_process[1].close()
        eventually(lambda: tls_pids(server) == pids[1:], "the first process to end with its client")
        write_settings(server, port=0, workers=2, **with_tls(folder))
        reload(server)
        with TlsClient(server.address, authority, timeout=5.0) as late:
            settle([late])
        stays.say("still here")
        everybody_hears([stays], "still here")


def test_a_failed_reload_lets_a_process_that_is_leaving_go_on_leaving(
    folder: Path, paths: tuple[Path, Path], authority: Authority
) -> None:
    fault = 'def install(worker, slot):\n    if flagged("broken"):\n        raise ImportError("oh")\n'
    with configured(folder, fault=fault, **with_tls(folder)) as server:
        with tls_listeners(server, authority, 1) as [stays]:
            write_settings(server, port=0, workers=2)
            reload(server)
            assert tls_of(server)["mode"] == "off"
            write_settings(server, port=0, workers=2, **with_tls(folder))
            (folder / "site" / "broken").touch()
            assert change(server, "reload").exit == NOT_STARTED
            (folder / "site" / "broken").unlink()
            found = tls_of(server)
            assert (found["mode"], found["expires"]) == ("off", None)
            assert [each["state"] for each in found["processes"]] == ["DRAINING"]
            stays.say("still here")
            everybody_hears([stays], "still here")
        eventually(lambda: facts(server)["tls"] is None, "the process to end with its last client")


def test_status_and_log_warn_of_a_certificate_that_ends_soon(folder: Path, authority: Authority) -> None:
    place(folder, authority.issue("127.0.0.1", stem="soon", not_after=in_days(10.2)))
    with configured(folder, **with_tls(folder)) as server:
        found = tls_of(server)
        assert (found["mode"], found["names"]) == ("optional", ["127.0.0.1"])
        assert abs(found["expires"] - in_days(10.2).timestamp()) < 60
        warning = "the TLS certificate expires in 10 days; renew it, then mpchat reload"
        assert found["warning"] == warning
        eventually(lambda: warning in server.log, "the log to warn")
        [process] = found["processes"]
        assert (process["slot"], process["state"], process["restarts"]) == (1, "RUNNING", 0)
        place(folder, authority.issue("127.0.0.1", stem="later", not_after=in_days(90)))
        reload(server)
        assert tls_of(server)["warning"] == ""
        with TlsClient(server.address, authority) as client:
            settle([client])
            eventually(lambda: tls_of(server)["processes"][0]["handshakes"] == 1, "a handshake to be counted")
