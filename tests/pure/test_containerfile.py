"""The manual's Containerfile: what can be known without a program that builds it.

The packaging test builds the wheel from the files that it copies; the tests of containers run its commands.
"""

import re
import signal
from pathlib import PurePosixPath

import pytest
from support.containerfile import copied, instructions
from support.manual import ROOT

from mpchat.cli.commands import main
from mpchat.config import SETTINGS, parse_environment, resolve

pytestmark = pytest.mark.one_python

ENVIRONMENT = dict(each.rest.split("=", 1) for each in instructions("ENV"))


def test_no_instruction_is_unknown_and_it_begins_with_a_base() -> None:
    known = {"FROM", "WORKDIR", "COPY", "RUN", "USER", "ENV", "VOLUME", "EXPOSE", "STOPSIGNAL"}
    names = [each.name for each in instructions()]
    assert set(names) == known | {"HEALTHCHECK", "ENTRYPOINT"}
    assert names[0] == "FROM"
    assert all(
        re.fullmatch(r"\S+/python:3\.\d+-slim( AS build)?", each.rest) for each in instructions("FROM")
    )


def test_what_it_copies_is_there() -> None:
    assert [each for each in copied() if not (ROOT / each).exists()] == []


def test_every_command_is_run_without_a_shell() -> None:
    for name in ("RUN", "ENTRYPOINT", "HEALTHCHECK"):
        for each in instructions(name):
            assert each.words, each
            if each.words[1:2] == ["-c"]:
                compile(each.words[2], "Containerfile", "exec")


def test_the_user_is_a_number_and_not_root() -> None:
    (user,) = instructions("USER")
    uid, gid = map(int, user.rest.split(":"))
    assert uid > 0
    assert gid > 0
    assert f"{uid}, {gid}" in instructions("RUN")[-1].words[2]


def test_its_variables_are_settings_and_right() -> None:
    found = parse_environment(ENVIRONMENT)
    assert {each for each in ENVIRONMENT if each.startswith("MPCHAT_")} == {
        each.variable for each in SETTINGS if each.name in found
    }
    config = resolve([found])[0]
    (exposed,) = instructions("EXPOSE")
    assert (config.port, config.host) == (int(exposed.rest), ("0.0.0.0",))
    assert any(config.runtime_dir in each.rest for each in instructions("RUN"))


def test_its_commands_are_commands_of_mpchat() -> None:
    for name in ("ENTRYPOINT", "HEALTHCHECK"):
        program, command, *options = instructions(name)[0].words
        assert program == "mpchat"
        known = {option for each in main.commands[command].params for option in each.opts}
        assert set(options) <= known


def test_the_programs_are_where_the_path_looks_first() -> None:
    (kept,) = [each for each in instructions("COPY") if each.options]
    assert kept.options == ("--from=build",)
    folder = kept.rest.split()[-1]
    assert PurePosixPath(ENVIRONMENT["PATH"].split(":")[0]) == PurePosixPath(folder) / "bin"


def test_it_is_stopped_by_a_signal_that_the_server_obeys() -> None:
    (stop,) = instructions("STOPSIGNAL")
    assert signal.Signals[stop.rest] is signal.SIGTERM
