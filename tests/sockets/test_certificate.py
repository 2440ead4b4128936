"""The certificate and the key that a server is given: what is taken, and what is said of wrong files."""

import os
import socket
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from support.tls import Authority

from mpchat.errors import StartError
from mpchat.instance import owners, trusted_file
from mpchat.tls.certificate import Certificate, make_context, read_certificate

DAY = 86_400.0
# The number of a user.
USER = 1234
Files = tuple[Path, Path]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Authority(tmp_path).issue("chat.test")


def refusal(chain: Path, key: Path | str) -> str:
    """Return why files are refused; nothing of a key is in it."""
    with pytest.raises(StartError) as raised:
        read_certificate(str(chain), str(key))
    text = str(raised.value)
    for each in {chain, Path(key or chain)}:
        if each.is_file():
            lines = each.read_text("latin-1").splitlines()
            assert not [line for line in lines if len(line) > 8 and line in text]
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__ or raised.value.__context__ is None
    return text


# What is taken.


@pytest.mark.parametrize("kind", trustme.KeyType)
def test_keys_of_both_kinds_are_taken(authority: Authority, kind: trustme.KeyType) -> None:
    chain, key = authority.issue("chat.test", "192.0.2.7", "2001:db8::1", stem=kind.name, key_type=kind)
    found = read_certificate(str(chain), str(key))
    assert (found.chain, found.key) == (chain.read_bytes(), key.read_bytes())
    assert found.names == ("chat.test", "192.0.2.7", "2001:db8::1")
    assert make_context(found.chain, found.key).minimum_version is ssl.TLSVersion.TLSv1_2


def test_the_key_may_stand_in_the_file_of_the_chain_whatever_comes_first(files: Files) -> None:
    chain, key = files
    for both in (chain.read_bytes() + key.read_bytes(), key.read_bytes() + chain.read_bytes()):
        key.write_bytes(both)
        found = read_certificate(str(key), "")
        assert found.chain == found.key == both
        assert found.names == ("chat.test",)


def test_the_end_is_that_of_the_servers_certificate_and_not_of_others_in_the_chain(
    tmp_path: Path,
) -> None:
    root = trustme.CA()
    middle = root.create_child_ca()
    ends = datetime.now(UTC).replace(microsecond=0) + timedelta(days=40)
    issued = middle.issue_cert("chat.test", not_after=ends)
    chain, key = tmp_path / "chain", tmp_path / "key"
    chain.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
    key.touch(0o600)
    key.write_bytes(issued.private_key_pem.bytes())
    assert len(issued.cert_chain_pems) == 2
    found = read_certificate(str(chain), str(key))
    assert found.expires == ends.timestamp()
    assert shown_chain(found, root) == 2


def shown_chain(found: Certificate, root: trustme.CA) -> int:
    """Return how many certificates a client is shown that trusts ``root`` alone."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    root.configure_trust(trusting)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = make_context(found.chain, found.key).wrap_bio(to_server, to_client, server_side=True)
    client = trusting.wrap_bio(to_client, to_server, server_hostname="chat.test")
    for each in (client, server, client):
        try:
            each.do_handshake()
        except ssl.SSLWantReadError:
            continue
    chain: list[Any] = client._sslobj.get_unverified_chain()  # type: ignore[attr-defined]
    return len(chain)


@pytest.mark.parametrize("modes", [(0o644, 0o600), (0o600, 0o400), (0o664, 0o640), (0o444, 0o440)])
def test_files_that_others_can_do_no_harm_with_are_taken(files: Files, modes: tuple[int, int]) -> None:
    for path, mode in zip(files, modes, strict=True):
        path.chmod(mode)
    assert read_certificate(*map(str, files)).names == ("chat.test",)


@pytest.mark.parametrize("owner", [0, USER])
def test_files_may_belong_to_root_or_to_the_servers_user(
    files: Files, monkeypatch: pytest.MonkeyPatch, owner: int
) -> None:
    belong_to(monkeypatch, owner)
    assert read_certificate(*map(str, files)).names == ("chat.test",)


def belong_to(monkeypatch: pytest.MonkeyPatch, owner: int) -> None:
    """Let the system say that files belong to ``owner``, and that this process is ``USER``'s."""

    def belonging(about: os.stat_result) -> Any:
        return SimpleNamespace(st_mode=about.st_mode, st_gid=about.st_gid, st_uid=owner)

    fake = SimpleNamespace(**{name: getattr(os, name) for name in dir(os)})
    fake.fstat = fake.stat = lambda at: belonging(os.stat(at))
    fake.lstat, fake.geteuid = lambda at: belonging(os.lstat(at)), lambda: USER
    monkeypatch.setattr(trusted_file, "os", fake)


# What is refused.


def gone(chain: Path, key: Path) -> None:
    chain.unlink()


def key_gone(chain: Path, key: Path) -> None:
    key.unlink()


def folder(chain: Path, key: Path) -> None:
    chain.unlink()
    chain.mkdir()


def pipe(chain: Path, key: Path) -> None:
    key.unlink()
    os.mkfifo(key, 0o600)


def listener(chain: Path, key: Path) -> None:
    key.unlink()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(key))


def empty(chain: Path, key: Path) -> None:
    chain.write_bytes(b"")


def huge(chain: Path, key: Path) -> None:
    with chain.open("ab") as file:
        file.truncate(2 << 20)


def not_pem(chain: Path, key: Path) -> None:
    chain.write_bytes(os.urandom(2000))


def half_of_pem(chain: Path, key: Path) -> None:
    chain.write_bytes(chain.read_bytes()[:300])


def wrong_way_round(chain: Path, key: Path) -> None:
    was = chain.read_bytes()
    chain.write_bytes(key.read_bytes())
    key.write_bytes(was)


def key_not_pem(chain: Path, key: Path) -> None:
    key.write_bytes(os.urandom(2000))


def key_empty(chain: Path, key: Path) -> None:
    key.write_bytes(b"")


def half_of_the_key(chain: Path, key: Path) -> None:
    lines = key.read_bytes().splitlines(keepends=True)
    key.write_bytes(b"".join([*lines[:2], lines[-1]]))


def foreign_key(chain: Path, key: Path) -> None:
    key.write_bytes(trustme.CA().issue_cert("chat.test").private_key_pem.bytes())


def encrypted(chain: Path, key: Path) -> None:
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    how = serialization.BestAvailableEncryption(b"secret")
    key.write_bytes(loaded.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how))


def encrypted_as_before(chain: Path, key: Path) -> None:
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    how, form = (
        serialization.BestAvailableEncryption(b"secret"),
        serialization.PrivateFormat.TraditionalOpenSSL,
    )
    key.write_bytes(loaded.private_bytes(serialization.Encoding.PEM, form, how))


UNREADABLE = "tls_cert: CHAIN holds no certificate in PEM"
CANNOT = "tls_key: KEY cannot be used with CHAIN: "
ENCRYPTED = f"{CANNOT}it is encrypted; mpchat takes a key without a password"


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (gone, "tls_cert: cannot read CHAIN: No such file or directory"),
        (key_gone, "tls_key: cannot read KEY: No such file or directory"),
        (folder, "tls_cert: cannot read CHAIN: Is a directory"),
        (pipe, "tls_key: KEY is no file with a certificate or a key"),
        (listener, "tls_key: cannot read KEY: No such device or address"),
        (empty, UNREADABLE),
        (huge, "tls_cert: CHAIN is no file with a certificate or a key"),
        (not_pem, UNREADABLE),
        (half_of_pem, UNREADABLE),
        (wrong_way_round, UNREADABLE),
        (key_not_pem, f"{CANNOT}there is no private key in it"),
        (key_empty, f"{CANNOT}there is no private key in it"),
        (half_of_the_key, CANNOT),
        (foreign_key, f"{CANNOT}it is the key of another certificate"),
        (encrypted, ENCRYPTED),
        (encrypted_as_before, ENCRYPTED),
    ],
)
def test_wrong_files_are_refused_in_words(
    files: Files, spoil: Callable[[Path, Path], None], text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    chain, key = files
    spoil(chain, key)
    said = refusal(chain, key).replace(str(chain), "CHAIN").replace(str(key), "KEY")
    assert said == text if text != CANNOT else (said.startswith(text) and len(said) > len(text))
    assert tuple(capfd.readouterr()) == ("", ""), "nobody is asked for a password"


def test_a_file_without_its_key_is_refused(files: Files) -> None:
    chain, _ = files
    chain.chmod(0o600)
    assert refusal(chain, "") == (
        f"tls_key: {chain} cannot be used with {chain}: there is no private key in it"
    )


def test_a_file_that_may_not_be_read_is_refused(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, flags: int) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(trusted_file, "_at_once", refuse)
    assert refusal(*files) == f"tls_cert: cannot read {files[0]}: Permission denied"


@pytest.mark.parametrize(
    ("number", "mode", "text"),
    [
        (1, 0o604, "tls_key: others may read or change {}; chmod 640 it"),
        (1, 0o602, "tls_key: others may read or change {}; chmod 640 it"),
        (1, 0o601, "tls_key: others may read or change {}; chmod 640 it"),
        (1, 0o620, "tls_key: others may read or change {}; chmod 640 it"),
        (1, 0o666, "tls_key: others may read or change {}; chmod 640 it"),
        (0, 0o646, "tls_cert: others may change {}; chmod 644 it"),
    ],
)
def test_files_that_others_may_read_or_change_are_refused(
    files: Files, number: int, mode: int, text: str
) -> None:
    files[number].chmod(mode)
    assert refusal(*files) == text.format(files[number])


def test_a_chain_with_its_key_is_as_secret_as_the_key(files: Files) -> None:
    chain, key = files
    chain.write_bytes(chain.read_bytes() + key.read_bytes())
    chain.chmod(0o644)
    assert refusal(chain, "") == f"tls_cert: others may read or change {chain}; chmod 640 it"


def test_files_of_another_user_are_refused(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    belong_to(monkeypatch, USER + 1)
    assert refusal(*files) == f"tls_cert: {files[0]} belongs to another user"


OPEN = "others may write the folder {}; close it with: chmod go-w {}"


@pytest.mark.parametrize(("mode", "may_be"), [(0o777, False), (0o702, False), (0o1777, True), (0o755, True)])
def test_files_that_others_may_replace_are_refused(files: Files, mode: int, may_be: bool) -> None:
    folder = files[0].parent
    folder.chmod(mode)
    if may_be:  # in a sticky folder nobody else can put a file in place of these
        assert read_certificate(*map(str, files)).names == ("chat.test",)
    else:
        assert refusal(*files) == "tls_cert: " + OPEN.format(folder, folder)


def test_a_group_that_may_write_certificates_may_have_a_folder_for_them_and_not_for_keys(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "both").mkdir()
    for path in files:
        path.rename(tmp_path / "both" / path.name)
    chain, key = (tmp_path / "both" / path.name for path in files)
    (tmp_path / "both").chmod(0o770)
    monkeypatch.setattr(owners, "_is_own_group", lambda gid, uid: False)
    assert refusal(chain, key) == "tls_key: " + OPEN.format(chain.parent, chain.parent)
    key.rename(tmp_path / "key")
    assert read_certificate(str(chain), str(tmp_path / "key")).names == ("chat.test",)


def lets_encrypt(chain: Path, key: Path, folder: Path) -> Files:
    """Arrange files as certbot does."""
    (folder / "archive" / "chat.test").mkdir(parents=True)
    (folder / "live" / "chat.test").mkdir(parents=True)
    for path, name in ((chain, "fullchain"), (key, "privkey")):
        path.rename(folder / "archive" / "chat.test" / f"{name}1.pem")
        (folder / "live" / "chat.test" / f"{name}.pem").symlink_to(f"../../archive/chat.test/{name}1.pem")
    return folder / "live" / "chat.test" / "fullchain.pem", folder / "live" / "chat.test" / "privkey.pem"


def kubernetes(chain: Path, key: Path, folder: Path) -> Files:
    """Arrange files as Kubernetes mounts a secret: in a folder that all may write, which is sticky."""
    dated = folder / "secret" / "..2026_11_28"
    dated.mkdir(parents=True)
    dated.chmod(0o2755)
    dated.parent.chmod(0o3777)
    (folder / "secret" / "..data").symlink_to(dated.name)
    for path in (chain, key):
        path.rename(dated / path.name)
        (folder / "secret" / path.name).symlink_to(f"..data/{path.name}")
    return folder / "secret" / chain.name, folder / "secret" / key.name


@pytest.mark.parametrize("arrange", [lets_encrypt, kubernetes])
@pytest.mark.parametrize("owner", [0, USER])
def test_links_as_certbot_and_kubernetes_make_them_are_followed(
    files: Files,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arrange: Callable[[Path, Path, Path], Files],
    owner: int,
) -> None:
    arranged = arrange(*files, tmp_path / "여기")
    belong_to(monkeypatch, owner)
    assert read_certificate(*map(str, arranged)).names == ("chat.test",)
    belong_to(monkeypatch, USER + 1)
    assert refusal(*arranged) == f"tls_cert: {arranged[0]} belongs to another user"


# Time.


def at(days: float) -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)


def test_an_expired_certificate_is_refused(authority: Authority) -> None:
    ended = at(-1)
    chain, key = authority.issue("chat.test", not_before=at(-9), not_after=ended)
    assert refusal(chain, key) == f"tls_cert: {chain} expired on {ended:%Y-%m-%d %H:%M} UTC"


def test_a_certificate_that_does_not_hold_yet_is_refused(authority: Authority) -> None:
    begins = at(1)
    chain, key = authority.issue("chat.test", not_before=begins, not_after=at(9))
    assert refusal(chain, key) == f"tls_cert: {chain} holds from {begins:%Y-%m-%d %H:%M} UTC on only"


@pytest.mark.parametrize(
    ("left", "text"),
    [
        (400.0, None),
        (14.0, None),
        (13.99, "the TLS certificate expires in 14 days; renew it, then mpchat reload"),
        (13.4, "the TLS certificate expires in 13 days; renew it, then mpchat reload"),
        (2.4, "the TLS certificate expires in 2 days; renew it, then mpchat reload"),
        (1.4, "the TLS certificate expires in 1 day; renew it, then mpchat reload"),
        (0.4, "the TLS certificate expires in less than a day; renew it, then mpchat reload"),
        (-0.01, "the TLS certificate has expired; renew it, then mpchat reload"),
        (-99.0, "the TLS certificate has expired; renew it, then mpchat reload"),
    ],
)
def test_the_end_is_warned_of_from_fourteen_days_before(left: float, text: str | None) -> None:
    now = time.time()
    assert Certificate(b"", b"", (), now + left * DAY).warning(now) == text
