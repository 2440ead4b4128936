"""A settings file on its limits; what it says is tested with the configuration."""

from pathlib import Path

import pytest

from mpchat.errors import ConfigError
from mpchat.settings import FILE_LIMIT, Sources, read_file


def test_a_file_may_be_as_long_as_the_limit_and_no_longer(tmp_path: Path) -> None:
    file = tmp_path / "mpchat.toml"
    file.write_bytes(b"port = 5\n".ljust(FILE_LIMIT, b"#"))
    assert read_file(str(file), "it")["port"].value == 5
    file.write_bytes(b"port = 5\n".ljust(FILE_LIMIT + 1, b"#"))
    with pytest.raises(ConfigError, match=r"^it: longer than 65536 bytes"):
        read_file(str(file), "it")


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"\0p", "in UTF-16"),
        (b"p\0", "in UTF-16"),
        (b"po\0", "a NUL character at byte 2"),
        (b"\xff\xfep", "in UTF-16"),
        (b"\xfe\xffp", "in UTF-16"),
    ],
)
def test_a_file_that_is_no_plain_text_is_told_from_one_with_a_nul_character(
    tmp_path: Path, data: bytes, fault: str
) -> None:
    file = tmp_path / "mpchat.toml"
    file.write_bytes(data)
    with pytest.raises(ConfigError, match=rf"^it: {fault}; save it as UTF-8$"):
        read_file(str(file), "it")


def test_a_command_is_for_a_server_in_the_background_unless_it_says_otherwise() -> None:
    assert not Sources.of_command(None, {}).foreground
    assert not Sources().foreground
