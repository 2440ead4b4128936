"""The errors about proofs as they are on the wire."""

import json

from mpchat.protocol.messages import Refusal, decode_from_server, error_frame
from mpchat.protocol.sign_in import BAD, auth_required, auth_required_frame, bad_credentials


def test_what_a_server_takes_stands_beside_code_and_text() -> None:
    frame, text = auth_required_frame(("password", "jwt")), auth_required(("password", "jwt")).text
    error = json.loads(frame[2:])["error"]
    assert error == {"code": "auth_required", "text": text, "proofs": ["password", "jwt"]}
    assert decode_from_server(frame[2:]).error == Refusal("auth_required", text, proofs=("password", "jwt"))
    assert '{"join": {"name": "…", "password": "…"}} or {"join": {"jwt": "…"}}' in text
    assert "secret" not in text
    assert '{"join": {"name": "…", "secret": "…"}}' in auth_required(("secret",)).text


def test_other_errors_are_as_they_were() -> None:
    assert error_frame("not_json", "안녕")[2:] == '{"error":{"code":"not_json","text":"안녕"}}'.encode()


def test_a_wrong_proof_is_told_in_one_way() -> None:
    error = bad_credentials()
    assert (error.code, error.text) == ("bad_credentials", BAD)
