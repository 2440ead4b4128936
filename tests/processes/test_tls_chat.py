"""``mpchat chat --tls`` with real servers: what is said, and why it says no."""

import re
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.harness import MPCHAT, Client, Server, assert_nothing_left, running, settle
from support.said import FAILED, OK, USAGE
from support.tls import Authority
from support.tls_peer import tls_of
from support.waiting import eventually

pytestmark = pytest.mark.one_python


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Server]:
    """A server whose certificate is for localhost alone."""
    folder = tmp_path_factory.mktemp("lasting")
    chain, key = authority.issue("localhost")
    with running(folder, "--tls-cert", str(chain), "--tls-key", str(key)) as started:
        yield started
    assert_nothing_left(folder)


def ca_file(authority: Authority, folder: Path) -> str:
    """Write the authority's own certificate to a file in ``folder``; return the path."""
    [own] = authority.context().get_ca_certs(binary_form=True)
    path = folder / "ca.pem"
    path.write_text(ssl.DER_cert_to_PEM_cert(own))
    return str(path)


def chat(server: Server, *words: str, said: str = "") -> "subprocess.CompletedProcess[str]":
    return server.run("chat", "--plain", *words, input=said, stdin=None, encoding="utf-8")


def test_lines_go_over_tls(shared: Server, authority: Authority, tmp_path: Path) -> None:
    port = str(shared.address[1])
    with Client(shared.address) as other:
        settle([other])
        before = handshakes(shared)
        for words, sent in (([], "안녕\nhello\n"), (["--name", "앨리스"], "안녕\n")):
            done = chat(
                shared, "localhost", port, "--tls", "--ca", ca_file(authority, tmp_path), *words, said=sent
            )
            assert (done.returncode, done.stderr) == (OK, "")
            assert done.stdout.splitlines()[-1] in ("hello", "앨리스: 안녕")
        heard = other.hear_until("앨리스: 안녕")
        assert [each for each in heard if "Disconnect" not in each] == ["안녕", "hello", "앨리스: 안녕"]
    eventually(lambda: handshakes(shared) == before + 2, "two handshakes to be counted")


def handshakes(server: Server) -> int:
    return int(tls_of(server)["processes"][0]["handshakes"])


def refused(done: "subprocess.CompletedProcess[str]", *, why: str) -> None:
    """It has said one line, and why."""
    assert (done.returncode, done.stdout) == (FAILED, "")
    assert re.search(why, done.stderr), done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_a_server_of_another_name_is_not_trusted(
    shared: Server, authority: Authority, tmp_path: Path
) -> None:
    port = str(shared.address[1])
    done = chat(shared, "127.0.0.1", port, "--tls", "--ca", ca_file(authority, tmp_path), said="secret\n")
    refused(done, why=r"127\.0\.0\.1.*not to be trusted.*mismatch")


def test_a_server_of_an_unknown_authority_is_not_trusted(
    shared: Server, authority: Authority, tmp_path: Path
) -> None:
    port = str(shared.address[1])
    why = r"localhost.*not to be trusted.*(self-signed|unable to get local issuer)"
    refused(chat(shared, "localhost", port, "--tls", said="secret\n"), why=why)
    other = ca_file(Authority(tmp_path), tmp_path)
    refused(chat(shared, "localhost", port, "--tls", "--ca", other, said="secret\n"), why=why)
    with Client(shared.address) as client:
        client.say("nothing has been said")
        assert client.hear() == "nothing has been said"


def test_a_server_without_tls_is_none_to_encrypt_for(
    folder: Path, authority: Authority, tmp_path: Path
) -> None:
    with running(folder, workers=1) as server:
        done = chat(
            server,
            "localhost",
            str(server.address[1]),
            "--tls",
            "--ca",
            ca_file(authority, tmp_path),
            said="x\n",
        )
        refused(done, why=r"localhost.*it does not speak TLS")


def test_a_server_that_only_closes_is_none_to_encrypt_for(
    shared: Server, authority: Authority, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        program = subprocess.Popen(
            [*MPCHAT, "chat", "--plain", "127.0.0.1", port, "--tls", "--ca", ca_file(authority, tmp_path)],
            env=shared.environment,
            cwd=shared.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        accepted, _ = listener.accept()
        accepted.recv(65_536)
        accepted.close()
        out, err = program.communicate(timeout=60)
    refused(subprocess.CompletedProcess([], program.returncode, out, err), why="it does not speak TLS")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ca", "{ca}"], "--ca needs --tls"),
        (["--tls", "--ca", "{ca}/absent"], "does not exist"),
        (["--tls", "--ca", "{key}"], "holds no certificates in PEM"),
    ],
    ids=["no tls", "no file", "no certificate"],
)
def test_a_wrong_way_to_say_whom_to_trust_is_an_error_of_usage(
    shared: Server, authority: Authority, tmp_path: Path, words: list[str], said: str
) -> None:
    paths = {"ca": ca_file(authority, tmp_path), "key": str(authority.issue("a", stem="another")[1])}
    done = shared.run("chat", "--plain", *[each.format(**paths) for each in words])
    assert (done.returncode, done.stdout) == (USAGE, "")
    assert said in " ".join(done.stderr.split())
