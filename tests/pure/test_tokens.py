"""Tokens: what is signed with the operator's key is believed, and nothing else, whatever its header says."""

import base64
import hashlib
import hmac
import json
import random
import re
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from mpchat.auth.grant import MEMBER, OPERATOR, SERVICE, Grant
from mpchat.auth.keys import Key, load_key
from mpchat.auth.tokens import LEEWAY, MOST_PATTERNS, make_token, read_token
from mpchat.errors import MpchatError, ProtocolError, StartError
from mpchat.protocol.requests import LONGEST_JWT
from mpchat.protocol.sign_in import BAD

NOW = 1_800_000_000.0
AUDIENCE = "mpchat"
SECRET = b"thirty-two bytes of a secret, 32"


def private_pem(key: Any, password: bytes | None = None) -> bytes:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    made: bytes = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    return made


def public_pem(key: Any) -> bytes:
    made: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return made


P256 = ec.generate_private_key(ec.SECP256R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()
RSA = rsa.generate_private_key(65537, 2048)
PRIVATE = {"ES256": private_pem(P256), "EdDSA": private_pem(ED25519), "HS256": SECRET}
PUBLIC = {"ES256": public_pem(P256), "EdDSA": public_pem(ED25519), "HS256": SECRET + b"\n"}
ALGORITHMS = list(PRIVATE)
CLAIMS = {"sub": "앨리스", "aud": AUDIENCE, "exp": NOW + 60}


def signed(claims: Any, key: Key | None = None, headers: dict[str, Any] | None = None) -> str:
    """Sign claims; a text is signed as it stands."""
    key = key or load_key(SECRET)
    payload = claims if isinstance(claims, str) else json.dumps(claims, ensure_ascii=False)
    return jwt.PyJWS().encode(payload.encode(), key.signing, algorithm=key.algorithm, headers=headers)


def read(text: str, key: Key | None = None, at: float = NOW) -> Grant:
    return read_token(key or load_key(SECRET), text, AUDIENCE, at)


def code(text: str, key: Key | None = None, at: float = NOW) -> str:
    with pytest.raises(ProtocolError) as caught:
        read(text, key, at)
    if caught.value.code == "bad_credentials":
        assert caught.value.text == BAD
    return caught.value.code


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_token_says_what_it_was_made_of(algorithm: str) -> None:
    signing, checking = load_key(PRIVATE[algorithm]), load_key(PUBLIC[algorithm])
    assert (signing.algorithm, checking.algorithm) == (algorithm, algorithm)
    for grant in (
        Grant("앨리스", expires=NOW + 60),
        Grant("앨리스", OPERATOR, ("로비", "게임-*"), NOW + 1),
        Grant("alice", MEMBER, (), NOW + 60),
        Grant("알림", SERVICE, None, NOW + 60),
    ):
        text = make_token(signing, grant, AUDIENCE, NOW)
        assert jwt.get_unverified_header(text)["alg"] == algorithm
        assert read(text, checking) == grant
        assert read(text, signing) == grant


def test_a_public_key_checks_and_does_not_sign() -> None:
    for algorithm in ("ES256", "EdDSA"):
        with pytest.raises(MpchatError, match="public key"):
            make_token(load_key(PUBLIC[algorithm]), Grant("앨리스", expires=NOW), AUDIENCE, NOW)


def test_a_name_comes_out_composed() -> None:
    assert read(signed(CLAIMS | {"sub": "\u110b\u1162\u11af\u1105\u1175\u1109\u1173"})).name == "앨리스"


def test_a_token_ends_and_is_told_to_be_over_only_if_all_else_is_right() -> None:
    text = signed(CLAIMS)
    assert read(text, at=NOW + 59.9).expires == NOW + 60
    assert code(text, at=NOW + 60) == "expired"
    assert code(text, at=NOW + 10**6) == "expired"
    other = load_key(b"another secret of thirty-two bytes")
    assert code(signed(CLAIMS, other), at=NOW + 60) == "bad_credentials"
    for wrong in ({"aud": "other"}, {"sub": ""}, {"role": "king"}, {"rooms": "로비"}):
        assert code(signed(CLAIMS | wrong), at=NOW + 60) == "bad_credentials"


@pytest.mark.parametrize(
    "change",
    [
        {"sub": None},
        {"sub": 5},
        {"sub": "a b"},
        {"sub": "x" * 21},
        {"sub": "127.0.0.1"},
        {"aud": None},
        {"aud": "Mpchat"},
        {"aud": [AUDIENCE]},
        {"aud": [AUDIENCE, "other"]},
        {"exp": None},
        {"exp": str(NOW + 60)},
        {"exp": True},
        {"exp": [NOW + 60]},
        {"exp": 10**400},
        {"role": ""},
        {"role": "Operator"},
        {"role": ["operator"]},
        {"role": {}},
        {"role": None},
        {"rooms": None},
        {"rooms": "로비"},
        {"rooms": [5]},
        {"rooms": [""]},
        {"rooms": ["방" * 65]},
        {"rooms": ["방"] * 101},
        {"rooms": {"로비": 1}},
        {"iat": NOW + 6},
        {"nbf": NOW + 6},
        {"nbf": "soon"},
    ],
)
def test_wrong_claims_are_wrong_credentials(change: dict[str, Any]) -> None:
    assert read(signed(CLAIMS)).name == "앨리스"
    assert code(signed(CLAIMS | change)) == "bad_credentials"


@pytest.mark.parametrize("claim", ["sub", "aud", "exp"])
def test_a_missing_claim_is_wrong_credentials(claim: str) -> None:
    assert code(signed({name: value for name, value in CLAIMS.items() if name != claim})) == "bad_credentials"


def test_clocks_may_differ_a_little_at_the_beginning_and_never_at_the_end() -> None:
    early = signed(CLAIMS | {"iat": NOW + LEEWAY, "nbf": NOW + LEEWAY})
    assert read(early).name == "앨리스"
    assert code(early, at=NOW - 0.1) == "bad_credentials"
    assert code(signed(CLAIMS | {"exp": NOW - 0.1})) == "expired"


def test_most_rooms_that_are_allowed_are() -> None:
    rooms = tuple("방" * 64 for _ in range(100))
    assert code(signed(CLAIMS | {"rooms": rooms})) == "bad_credentials"  # over 8 KiB
    starred = tuple(f"*game-*-{number}-*-*" for number in range(MOST_PATTERNS))
    rooms = (*starred, *(f"game-{number}" for number in range(100 - MOST_PATTERNS)))
    assert read(signed(CLAIMS | {"rooms": rooms})).rooms == rooms
    assert code(signed(CLAIMS | {"rooms": (*starred, "one more *")})) == "bad_credentials"
    assert code(signed(CLAIMS | {"rooms": ("*****",)})) == "bad_credentials"


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "a.b.c",
        "앨리스",
        "x" * 5000,
        "\0",
        "eyJhbGciOiJIUzI1NiJ9..",
    ],
)
def test_what_is_no_token_is_wrong_credentials(text: str) -> None:
    assert code(text) == "bad_credentials"


def test_a_token_over_8_kib_is_wrong_and_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    fits = signed(CLAIMS | {"more": "x" * 5900})
    assert len(fits) <= LONGEST_JWT
    assert read(fits).name == "앨리스"
    long = signed(CLAIMS | {"more": "x" * 6200})
    assert len(long) > LONGEST_JWT
    key = load_key(SECRET)
    monkeypatch.setattr(jwt, "PyJWS", None)
    assert code(long, key) == "bad_credentials"


def encoded(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def by_hand(header: dict[str, Any], claims: Any, secret: bytes) -> str:
    """Sign as no library would."""
    message = f"{encoded(header)}.{encoded(claims)}"
    return f"{message}.{encoded(hmac.digest(secret, message.encode(), hashlib.sha256))}"


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", None, "HS512", "RS256", ["HS256"]])
def test_no_other_algorithm_is_taken_whatever_the_header_says(algorithm: Any) -> None:
    message = f"{encoded({'alg': algorithm})}.{encoded(CLAIMS)}"
    for kind in ALGORITHMS:
        key = load_key(PUBLIC[kind])
        assert code(f"{message}.", key) == "bad_credentials"
        assert code(by_hand({"alg": algorithm}, CLAIMS, SECRET), key) == "bad_credentials"


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_the_key_decides_the_algorithm_also_where_another_one_would_fit(algorithm: str) -> None:
    secret = SECRET * 2
    assert read(jwt.encode(CLAIMS, secret, algorithm="HS256"), load_key(secret)).name == "앨리스"
    assert code(jwt.encode(CLAIMS, secret, algorithm=algorithm), load_key(secret)) == "bad_credentials"


def test_a_token_without_an_algorithm_is_none() -> None:
    assert read(by_hand({"alg": "HS256"}, CLAIMS, SECRET)).name == "앨리스"  # the forger's tool works
    assert code(by_hand({}, CLAIMS, SECRET)) == "bad_credentials"
    assert code(f"{encoded({'alg': 'HS256'})}.{encoded(CLAIMS)}.") == "bad_credentials"


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA"])
def test_the_public_key_as_a_shared_secret_signs_nothing(algorithm: str) -> None:
    pem = PUBLIC[algorithm]
    for secret in (pem, pem.strip(), pem.replace(b"\n", b"\r\n")):
        assert code(by_hand({"alg": "HS256"}, CLAIMS, secret), load_key(pem)) == "bad_credentials"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_of_another_is_no_key_here(algorithm: str) -> None:
    strangers = {
        "ES256": private_pem(ec.generate_private_key(ec.SECP256R1())),
        "EdDSA": private_pem(ed25519.Ed25519PrivateKey.generate()),
        "HS256": b"x" * 32,
    }
    for stranger in strangers.values():
        assert code(signed(CLAIMS, load_key(stranger)), load_key(PUBLIC[algorithm])) == "bad_credentials"


def test_a_changed_token_is_wrong() -> None:
    header, _, signature = signed(CLAIMS).split(".")
    assert code(f"{header}.{encoded(CLAIMS | {'role': 'operator'})}.{signature}") == "bad_credentials"


def test_a_header_that_names_a_key_is_not_followed() -> None:
    stranger = load_key(private_pem(ec.generate_private_key(ec.SECP256R1())))
    jwk = {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}
    for header in (
        {"kid": "../../../dev/null"},
        {"jku": "http://127.0.0.1:9/keys"},
        {"x5u": "http://127.0.0.1:9/chain"},
        {"jwk": jwk},
    ):
        assert code(signed(CLAIMS, stranger, header), load_key(PUBLIC["ES256"])) == "bad_credentials"
        assert read(signed(CLAIMS, headers=header)).name == "앨리스"  # and does no harm


@pytest.mark.parametrize(
    "claims",
    [
        '{"sub":"bob","sub":"앨리스","aud":"mpchat","exp":1900000000}',
        '{"sub":"앨리스","aud":"mpchat","exp":1900000000,"exp":1900000001}',
        '{"sub":"앨리스","aud":"mpchat","exp":NaN}',
        '{"sub":"앨리스","aud":"mpchat","exp":Infinity}',
        '{"sub":"앨리스","aud":"mpchat","exp":1900000000,"more":NaN}',
        '{"sub":"앨리스","aud":"mpchat","exp":1e999}',
        '{"sub":"앨리스","aud":"mpchat","exp":' + "9" * 5000 + "}",
        '{"sub":"\\ud83d","aud":"mpchat","exp":1900000000}',
        '["앨리스"]',
        '"앨리스"',
        "null",
        "",
        "[" * 3000,
    ],
)
def test_claims_that_two_programs_may_read_differently_are_wrong(claims: str) -> None:
    assert read(signed('{"sub":"앨리스","aud":"mpchat","exp":1900000000}')).name == "앨리스"
    assert code(signed(claims)) == "bad_credentials"


@pytest.mark.parametrize(
    ("grant", "why"),
    [
        (Grant("a b", expires=NOW), "a space"),
        (Grant("앨리스"), "has an end"),
        (Grant("가" + "\u0301\u0302\u0303\u0304\u0306", expires=NOW), "at most 4 marks in a row"),
        (Grant("앨리스", rooms=("방",) * 101, expires=NOW), "at most 100 rooms"),
        (Grant("앨리스", rooms=("",), expires=NOW), "1 to 64 characters"),
        (Grant("앨리스", rooms=("방" * 64,) * 100, expires=NOW), "8192 are read"),
    ],
)
def test_a_token_that_could_not_be_read_is_not_made(grant: Grant, why: str) -> None:
    with pytest.raises(MpchatError, match=why):
        make_token(load_key(SECRET), grant, AUDIENCE, NOW)


# Which keys are taken.


def test_a_newline_at_the_end_does_not_belong_to_a_secret() -> None:
    for end in (b"\n", b"\r\n"):
        assert load_key(SECRET + end).verifying == SECRET
    assert load_key(SECRET + b"\n\n").verifying == SECRET + b"\n"


SSH = ED25519.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
REFUSED: dict[str, tuple[bytes, str]] = {
    "31 bytes": (SECRET[:31] + b"\n", "a secret of 31 bytes is too short"),
    "rsa": (private_pem(RSA), "RSA cannot be used"),
    "rsa, public": (public_pem(RSA), "RSA cannot be used"),
    "p384": (private_pem(ec.generate_private_key(ec.SECP384R1())), "an EC key on secp384r1 cannot be used"),
    "encrypted": (private_pem(P256, b"password"), "the key is encrypted"),
    "certificate": (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "it is a certificate"),
    "ssh, public": (SSH, "it is a key of ssh"),
    "ssh, private": (
        ED25519.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        ),
        "it is a key of ssh",
    ),
    "der": (
        P256.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
        "in DER",
    ),
    "der, rsa": (
        RSA.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
        "in DER",
    ),
    "json": (
        b'{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}',
        "a JSON web key",
    ),
    "json, a set": (b'{"keys": [{"kty": "OKP", "crv": "Ed25519"}]}', "a JSON web key"),
    "utf-16": (PUBLIC["ES256"].decode().encode("utf-16"), "in UTF-16"),
    "broken": (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no key in it"),
    "cut": (PRIVATE["ES256"][:60], "no key in it"),
}

LINES = [PUBLIC[kind].split(b"\n")[1:-2] for kind in ("ES256", "EdDSA")] + [
    public_pem(RSA).split(b"\n")[1:-2]
]
DERS = [base64.b64decode(b"".join(lines)) for lines in LINES]
PEMS = [PUBLIC["ES256"], PUBLIC["EdDSA"], public_pem(RSA)]
PKCS1 = RSA.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
PUTTY = b"PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\nPublic-Lines: 2\nAAAA\n"
# Public keys in other writings, with which anyone could sign if one were taken for a shared secret.
WRITINGS = {
    "the body alone": [b"\n".join(lines) for lines in LINES],
    "the body in one line": [b"".join(lines) + b"\n" for lines in LINES],
    "the body in short lines": [re.sub(b"(.{20})", b"\\1\r\n", b"".join(lines)) for lines in LINES],
    "the body for addresses": [base64.urlsafe_b64encode(der).rstrip(b"=") for der in DERS],
    "the body in a setting": [b'key = "' + b"".join(lines) + b'"\n' for lines in LINES],
    "in base64": [base64.b64encode(pem) for pem in PEMS],
    "in base64, in lines": [base64.encodebytes(pem) for pem in PEMS],
    "in base64 twice": [base64.b64encode(base64.b64encode(pem)) for pem in PEMS],
    "in hex": [der.hex().encode() for der in (*DERS, PKCS1)],
    "in hex, apart": [der.hex(":").upper().encode() + b"\n" for der in DERS],
    "in hex, with a sign": [b"0x" + der.hex().encode() for der in DERS],
    "pem in hex": [pem.hex().encode() for pem in PEMS],
    "a byte after it": [der + b"\n" for der in (*DERS, PKCS1)],
    "no first line": [pem.split(b"\n", 1)[1] for pem in PEMS],
    "no last line": [b"".join(lines[:1]) for lines in LINES],
    "no dashes": [pem.replace(b"-", b"") for pem in PEMS],
    "fewer dashes": [pem.replace(b"-----", b"----") for pem in PEMS],
    "in utf-16": [base64.b64encode(der).decode().encode("utf-16") for der in DERS],
    "of ssh after options": [
        b'from="192.0.2.*",no-pty ' + SSH,
        b"# \xec\x95\xa8\n" + SSH,
        b'command="ls" ' + SSH,
    ],
    "of ssh, the body": [SSH.split()[1]],
    "of PuTTY": [PUTTY],
}


@pytest.mark.parametrize("writing", WRITINGS)
def test_a_public_key_in_another_writing_is_no_shared_secret(writing: str) -> None:
    for data in WRITINGS[writing]:
        with pytest.raises(StartError, match="jwt_key: it is a key"):
            load_key(data)


def test_random_texts_are_secrets() -> None:
    chance = random.Random(1)
    for _ in range(2000):
        data = chance.randbytes(48)
        for text in (
            data,
            data.hex().encode(),
            base64.b64encode(data) + b"\n",
            base64.urlsafe_b64encode(data),
        ):
            assert load_key(text).algorithm == "HS256"
    assert load_key("우리 반의 열쇠는 아주 아주 길다".encode()).algorithm == "HS256"


def test_a_key_that_the_library_refuses_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise jwt.InvalidKeyError("a key of which nothing is shown: " + SECRET.decode())

    signing = load_key(SECRET)
    monkeypatch.setattr(jwt.algorithms.HMACAlgorithm, "prepare_key", refuse)
    monkeypatch.setattr(jwt.algorithms.ECAlgorithm, "prepare_key", refuse)
    for data in (SECRET, PRIVATE["ES256"], PUBLIC["ES256"]):
        with pytest.raises(StartError, match="jwt_key: there is no key in it that can be used") as caught:
            load_key(data)
        assert SECRET.decode() not in str(caught.value)
    with pytest.raises(MpchatError, match="the token cannot be signed") as unsigned:
        make_token(signing, Grant("앨리스", expires=NOW), AUDIENCE, NOW)
    assert SECRET.decode() not in str(unsigned.value)


@pytest.mark.parametrize("kind", REFUSED)
def test_other_keys_are_refused_with_the_setting_and_what_is_allowed(kind: str) -> None:
    data, why = REFUSED[kind]
    with pytest.raises(StartError) as caught:
        load_key(data)
    said = str(caught.value)
    assert said.startswith("jwt_key: ")
    assert why in said
    assert "allowed: a PEM file with an EC P-256 or Ed25519 key" in said
    assert "\n" not in said
    assert "AAAA" not in said


def test_a_key_shows_nothing_of_itself() -> None:
    for data in (*PRIVATE.values(), *PUBLIC.values()):
        assert repr(load_key(data)) in {
            f"Key({algorithm}, {kind})" for algorithm in ALGORITHMS for kind in ("private", "public")
        }


def test_keys_as_openssl_writes_them_are_taken() -> None:
    traditional = P256.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    assert load_key(parameters + traditional).algorithm == "ES256"
