"""``mpchat client``: a library for another language on standard output, byte for byte."""

import subprocess
from pathlib import Path

import pytest
from support.harness import MPCHAT, Server
from support.manual import ROOT

from mpchat.cli.client import CLIENTS

pytestmark = pytest.mark.usefixtures("commands_apart")


@pytest.fixture
def here(folder: Path) -> Server:
    return Server(folder)


@pytest.mark.parametrize("language", CLIENTS)
def test_a_library_comes_as_it_is_in_the_package_in_any_locale(here: Server, language: str) -> None:
    ascii_only = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [*MPCHAT, "client", language]
    done = subprocess.run(
        command, env={**here.environment, **ascii_only}, cwd=here.folder, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == (ROOT / "mpchat" / CLIENTS[language]).read_bytes()


@pytest.mark.parametrize("words", [["client"], ["client", "co\x1b[2Jbol"]])
def test_without_a_known_language_the_languages_are_named(here: Server, words: list[str]) -> None:
    done = here.run(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "\x1b" not in done.stderr
    assert all(language in done.stderr for language in CLIENTS)
