"""Sources of settings: read at the start, and again by a server that stands in another folder by then."""

import contextlib
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.harness import MPCHAT, Server

from mpchat.config import Config
from mpchat.errors import ConfigError, StartError
from mpchat.settings import FILE_LIMIT, Sources, absolute, check_installed, current_folder, read_file
from mpchat.supervisor import live_settings
from mpchat.supervisor.startup import StartFacts, start_text


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a start, with a home of its own beside it."""
    folder, home = tmp_path / "here", tmp_path / "home"
    folder.mkdir()
    (home / ".config" / "mpchat").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.chdir(folder)
    yield folder
    os.chdir("/")


def at_a_start(
    config_file: str | None = None, *, foreground: bool = False, **flags: str | None
) -> tuple[Sources, Config]:
    sources = Sources.of_command(config_file, flags, foreground=foreground)
    return sources, sources.ready_to_run(sources.read({})[0])


def again(sources: Sources, environment: dict[str, str] | None = None) -> Config:
    """What the server reads later: it has the sources from a pipe, and stands somewhere else."""
    sources = msgspec.json.decode(msgspec.json.encode(sources), type=Sources)
    os.chdir("/")
    return sources.read_again(environment or {})


def refused_again(sources: Sources) -> str:
    with pytest.raises(ConfigError) as caught:
        again(sources)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# The same from another folder.


def test_read_again_without_a_change_gives_what_the_start_had(here: Path) -> None:
    (here / "mpchat.toml").write_text("runtime-dir = 'run'\nport = 5\nnotices = false\n")
    for flags in ({}, {"log_file": "log", "workers": "3"}, {"log_file": "~/log"}, {"runtime_dir": "../run"}):
        os.chdir(here)
        sources, config = at_a_start(foreground="workers" in flags, **flags)
        assert again(sources) == config
    assert config.runtime_dir == str(here / "../run")


def test_relative_paths_lead_from_the_folder_of_the_start_whatever_says_them(here: Path) -> None:
    (here / "mpchat.toml").write_text("log-file = 'file.log'\n")
    sources, config = at_a_start()
    assert config.log_file == again(sources).log_file == str(here / "file.log")
    environment = {"MPCHAT_RUNTIME_DIR": "run", "MPCHAT_LOG_FILE": "other.log"}
    config = again(sources, environment)
    assert (config.runtime_dir, config.log_file) == (str(here / "run"), str(here / "file.log"))


def test_flags_go_before_the_file_and_the_file_before_variables_at_a_later_reading_too(here: Path) -> None:
    (here / "mpchat.toml").write_text("port = 2\nworkers = 2\n")
    sources, _ = at_a_start(port="1")
    (here / "mpchat.toml").write_text("port = 22\nworkers = 22\n")
    config = again(sources, {"MPCHAT_PORT": "3", "MPCHAT_WORKERS": "3", "MPCHAT_FAREWELL": "bye"})
    assert (config.port, config.workers, config.farewell) == (1, 22, "bye")


def test_a_file_that_was_not_there_at_the_start_counts_and_one_that_has_gone_does_not(here: Path) -> None:
    users = here.parent / "home" / ".config" / "mpchat" / "mpchat.toml"
    sources, config = at_a_start()
    assert config.port == 4000
    users.write_text("port = 1\n")
    assert again(sources).port == 1
    (here / "mpchat.toml").write_text("port = 2\n")
    assert again(sources).port == 2
    (here / "mpchat.toml").unlink()
    users.unlink()
    assert again(sources).port == 4000


def test_a_server_in_the_background_has_its_own_log_and_one_in_the_foreground_has_none(here: Path) -> None:
    for foreground, log_file in ((False, str(here / "run" / "lobby" / "server.log")), (True, "")):
        os.chdir(here)
        sources, config = at_a_start(foreground=foreground, name="lobby", runtime_dir="run")
        assert config.log_file == again(sources).log_file == log_file


def test_a_named_file_must_be_there_and_the_default_places_do_not_count(here: Path) -> None:
    (here / "mpchat.toml").write_text("port = 1\n")
    (here / "my.toml").write_text("workers = 1\n")
    sources, config = at_a_start("./my.toml")
    assert (config.port, config.workers) == (4000, 1)
    (here / "my.toml").unlink()
    assert refused_again(sources) == f"cannot read {here / 'my.toml'}: No such file or directory"


# What is wrong, and where.


def test_the_start_names_a_file_as_it_was_typed_and_a_later_reading_by_its_whole_path(here: Path) -> None:
    (here / "my.toml").write_text("port = 1\n")
    sources, _ = at_a_start("my.toml")
    (here / "my.toml").write_text("\nport = 'one'\n")
    with pytest.raises(ConfigError, match=r"^my\.toml, line 2: port is 'one', allowed: "):
        sources.read({})
    assert refused_again(sources).startswith(f"{here / 'my.toml'}, line 2: port is 'one', allowed: ")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"port = ", "not TOML"),
        (b"colour = 1", "unknown setting 'colour'"),
        (b"\xff", "not UTF-8 at byte 0"),
        ("port = 5\n".encode("utf-16"), "in UTF-16; save it as UTF-8"),
        ("port = 5\n".encode("utf-16-le"), "in UTF-16; save it as UTF-8"),
        ("port = 5\n".encode("utf-16-be"), "in UTF-16; save it as UTF-8"),
        (b"port = 5\0\n", "a NUL character at byte 8; save it as UTF-8"),
        (b'log_file = "\\u0000"', "log_file is '\\x00'"),
        (b"#" * (FILE_LIMIT + 1), "longer than 65536 bytes"),
        (b"runtime_dir = '~no-such-user/x'", "'~no-such-user/x' leads nowhere"),
        (b"farewell = '" + b"x" * 1001 + b"'", "farewell is 'xxx"),
    ],
)
def test_a_file_that_became_wrong_is_told(here: Path, data: bytes, why: str) -> None:
    sources, _ = at_a_start()
    (here / "mpchat.toml").write_bytes(data)
    assert why in refused_again(sources)


@pytest.mark.skipif(sys.platform != "linux", reason="kqueue is there on other systems")
def test_a_multiplexer_that_this_system_lacks_is_told(here: Path) -> None:
    sources, _ = at_a_start()
    (here / "mpchat.toml").write_text("multiplexer = 'kqueue'\n")
    assert "this system has no kqueue" in refused_again(sources)


def test_a_server_does_not_wait_for_a_pipe_where_its_file_was(here: Path) -> None:
    (here / "my.toml").write_text("port = 1\n")
    sources, _ = at_a_start("my.toml")
    (here / "my.toml").unlink()
    os.mkfifo(here / "my.toml")
    assert refused_again(sources) == f"{here / 'my.toml'}: not a plain file, so it cannot be read again"


def test_settings_from_a_pipe_start_a_server_and_are_not_read_again_from_whatever_has_its_number(
    here: Path,
) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"port = 7\n")
    os.close(writer)
    sources, config = at_a_start(f"/dev/fd/{reader}")
    assert config.port == 7
    os.close(reader)
    reader, writer = os.pipe()
    assert str(reader) in sources.named
    assert "not a plain file" in refused_again(sources)
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("place", [".", "../home/.config/mpchat"])
def test_what_is_no_file_in_a_default_place_is_passed_over(here: Path, place: str) -> None:
    os.mkfifo(here / place / "mpchat.toml")
    sources, config = at_a_start()
    assert again(sources) == config


def test_an_endless_file_is_refused(here: Path) -> None:
    with pytest.raises(ConfigError, match="longer than"):
        read_file("/dev/zero", "/dev/zero")


# Where there is nothing to lead from.


def test_with_the_folder_of_the_start_removed_only_relative_paths_lead_nowhere(here: Path) -> None:
    here.rmdir()
    assert current_folder() == ""
    sources, config = at_a_start(runtime_dir="/run/x")
    assert again(sources) == config
    with pytest.raises(ConfigError, match="'x' leads nowhere: the current folder was removed"):
        absolute("x", "")


def test_with_no_home_the_current_folder_is_the_only_place(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_home(*words: str) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("platformdirs.user_config_path", no_home)
    assert Sources.of_command(None, {}).files == (str(here / "mpchat.toml"),)
    # What earlier versions of it return in the same case.
    monkeypatch.setattr("platformdirs.user_config_path", lambda name: Path("~/.config") / name)
    assert Sources.of_command(None, {}).files == (str(here / "mpchat.toml"),)


# The address of a server whose settings are wrong.


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("name = 'lobby'\nport = 1", "lobby"),
        ("name = 'lobby'\nport = 'one'", "lobby"),
        ("colour = 1\nname = 'lobby'", "lobby"),
        ("name = 'lobby'\ncolour = 1\nname-hold = 1", "lobby"),
        ("port = ", "variable"),
        ("port 5 # but no \xff", "variable"),
        ("name-hold = ", "variable"),
        ("[", "variable"),
    ],
)
def test_the_address_is_found_in_spite_of_a_wrong_file(here: Path, text: str, name: str) -> None:
    environment = {"MPCHAT_NAME": "variable", "MPCHAT_WORKERS": "none"}
    (here / "mpchat.toml").write_bytes(text.encode("latin-1"))
    for flags, expected in (({}, name), ({"name": "flag"}, "flag")):
        assert Sources.of_command(None, flags).read_address(environment).name == expected


@pytest.mark.parametrize(
    "text",
    [
        "name = 'no/name'\nport = 1",
        "name = lobby",
        "port = \nname = 'lobby'",
        "'name' = 1",
        "name = 'a'\n" * 2,
    ],
)
def test_a_file_that_may_name_another_server_is_not_guessed_at(here: Path, text: str) -> None:
    (here / "mpchat.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"; or say which server is meant with --name and --runtime-dir$"):
        Sources.of_command(None, {}).read_address({"MPCHAT_NAME": "variable"})
    assert Sources.of_command(None, {"name": "flag"}).read_address({}).name == "flag"
    (here / "mpchat.toml").write_text("runtime_dir = ")
    with pytest.raises(ConfigError, match=r"; or say which server is meant with --runtime-dir$"):
        Sources.of_command(None, {"name": "flag"}).read_address({})
    flags = {"name": "flag", "runtime_dir": "run"}
    assert Sources.of_command(None, flags).read_address({}).runtime_dir == "run"


def test_what_a_pipe_said_of_the_address_is_not_guessed_at(here: Path) -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, b"name = 'lobby'\ncolour = 1\n")
    os.close(write_end)
    with pytest.raises(ConfigError, match=r"not a plain file"):
        Sources.of_command(f"/dev/fd/{read_end}", {}).read_address({})
    os.close(read_end)


def test_an_address_that_is_itself_wrong_is_refused(here: Path) -> None:
    (here / "mpchat.toml").write_text("port = ")
    with pytest.raises(ConfigError, match=r"^flag --name: [^;]*$"):
        Sources.of_command(None, {"name": "a/b"}).read_address({})
    with pytest.raises(ConfigError, match=r"^variable MPCHAT_NAME: "):
        Sources.of_command(None, {}).read_address({"MPCHAT_NAME": "a/b"})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=60))
def test_any_bytes_in_the_file_are_settings_or_a_config_error(here: Path, data: bytes) -> None:
    os.chdir(here)
    (here / "mpchat.toml").write_bytes(data)
    sources = Sources.of_command(None, {"runtime_dir": "run"})
    with contextlib.suppress(ConfigError):
        sources.read_address({})
    with contextlib.suppress(ConfigError):
        assert again(sources) == sources.ready_to_run(sources.read({})[0])


# On the way to the server.


def test_a_server_starts_from_a_folder_whose_name_is_no_text(folder: Path) -> None:
    server = Server(folder)
    odd = Path(os.fsdecode(os.fsencode(folder) + b"/\xff"))
    odd.mkdir()
    (odd / "mpchat.toml").write_text("farewell = 'bye'\n")
    try:
        server.start(workers=1)
        server.stop()
        started = server.command("start", "--port", "0", "--workers", "1", cwd=odd)
        assert (started.returncode, started.stderr) == (0, "")
        assert server.status()["state"] == "RUNNING"
    finally:
        server.end()


@pytest.mark.parametrize("flags", [[], ["--foreground"]], ids=["background", "foreground"])
def test_more_settings_than_a_pipe_takes_are_refused_not_waited_for(folder: Path, flags: list[str]) -> None:
    hosts = ",".join(["127.0.0.1"] * 5000)
    done = subprocess.run(
        [*MPCHAT, "start", "--host", hosts, *flags],
        env=Server(folder).environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "all settings together take" in done.stderr
    assert not (folder / "run").exists()


def test_a_byte_order_mark_in_front_of_the_file_is_no_mistake(here: Path) -> None:
    (here / "mpchat.toml").write_bytes(b'\xef\xbb\xbfname = "lobby"\n')
    sources, config = at_a_start()
    assert config.name == "lobby"
    assert sources.read_again({}).name == "lobby"


def test_a_variable_that_another_program_has_set_is_no_mistake_where_something_else_decides(
    here: Path,
) -> None:
    variables = {"MPCHAT_PORT": "tcp://10.0.0.1:4000"}  # as Kubernetes sets it for a service called "mpchat"
    with pytest.raises(ConfigError, match="variable MPCHAT_PORT"):
        Sources.of_command(None, {}).read(variables)
    for sources in (Sources.of_command(None, {"port": "5000"}), Sources.of_command(None, {})):
        assert sources.read(variables)[0].port == 5000
        assert sources.read_again(variables).port == 5000
        (here / "mpchat.toml").write_text("port = 5000\n")


PATHS = ("runtime_dir", "log_file", "bans", "history", "accounts", "jwt_key", "secret")


def path_from(source: str, here: Path, name: str, value: str) -> Config:
    """The settings with one path that comes from a flag, the file or a variable."""
    (here / "mpchat.toml").write_text(f"{name} = '{value}'" if source == "file" else "")
    variables = {f"MPCHAT_{name.upper()}": value} if source == "variable" else {}
    sources = Sources.of_command(None, {name: value} if source == "flag" else {})
    config = sources.ready_to_run(sources.read(variables)[0])
    assert sources.read_again(variables) == config
    return config


@pytest.mark.parametrize("name", PATHS)
def test_a_tilde_in_a_path_is_the_home_wherever_the_path_is_written(here: Path, name: str) -> None:
    for source in ("flag", "file", "variable"):
        assert getattr(path_from(source, here, name, "~/x"), name) == str(here.parent / "home" / "x")


@pytest.mark.parametrize("name", ["accounts", "jwt_key", "secret"])
def test_a_relative_path_starts_from_the_folder_of_the_command(here: Path, name: str) -> None:
    for source in ("flag", "file", "variable"):
        assert getattr(path_from(source, here, name, "열쇠/하나"), name) == str(here / "열쇠" / "하나")


@pytest.mark.parametrize("name", ["jwt_key", "secret"])
def test_a_variable_that_holds_a_secret_stays_as_it_is_written(here: Path, name: str) -> None:
    for source in ("flag", "file", "variable"):
        assert getattr(path_from(source, here, name, "env:CHAT_KEY"), name) == "env:CHAT_KEY"


@pytest.mark.parametrize("name", PATHS)
def test_a_path_that_is_not_utf_8_is_refused(here: Path, name: str) -> None:
    for source in ("flag", "variable"):
        with pytest.raises(ConfigError, match=r"udcff' is not UTF-8; allowed: a path in UTF-8$"):
            path_from(source, here, name, os.fsdecode(b"/tmp/\xff"))


@pytest.mark.parametrize("words", [["start", "--port", "0"], ["status"], ["stop"], ["chat"], ["reload"]])
def test_a_runtime_folder_that_is_not_utf_8_is_one_line_and_nothing_is_made(
    folder: Path, words: list[str]
) -> None:
    server = Server(folder)
    odd = os.fsencode(folder) + b"/\xff\xfe"
    for variable in ("MPCHAT_RUNTIME_DIR", "XDG_RUNTIME_DIR"):
        environment: dict[str, str | bytes] = {**server.environment, "MPCHAT_RUNTIME_DIR": "", variable: odd}
        if variable == "XDG_RUNTIME_DIR":
            os.mkdir(odd, 0o700)  # a folder that is not there does not count
        done = server.run(*words, env=environment)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert "\\udcff\\udcfe" in done.stderr
        assert done.stderr.endswith("is not UTF-8; allowed: a path in UTF-8\n")
        assert not os.path.exists(odd + b"/default")
        assert not os.path.exists(odd + b"/mpchat")


def test_a_file_that_may_name_another_server_is_not_guessed_at_in_utf_16(here: Path) -> None:
    (here / "mpchat.toml").write_bytes("name = 'lobby'".encode("utf-16"))
    with pytest.raises(ConfigError, match="in UTF-16; save it as UTF-8; or say which server is meant"):
        Sources.of_command(None, {}).read_address({})


# Whose file it is.

NOBODY = 65534
root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")


def refused_here(here: Path) -> str:
    """The file in the current folder is refused: at a start, later, and when a server is looked for."""
    sources = Sources.of_command(None, {})
    with pytest.raises(ConfigError) as caught:
        sources.read({})
    with pytest.raises(ConfigError, match="is not obeyed"):
        sources.read_again({})
    with pytest.raises(ConfigError, match="or say which server is meant with --name and --runtime-dir"):
        sources.read_address({})
    assert Sources.of_command("mpchat.toml", {}).read({})[0].port == 5
    file = here / "mpchat.toml"
    text = str(caught.value)
    assert text.startswith(f"{file} is not obeyed: ")
    assert text.endswith(f"; to insist, name it: --config {file}")
    return text


@root
def test_a_file_of_another_user_in_the_current_folder_is_not_obeyed_unless_it_is_named(here: Path) -> None:
    file = here / "mpchat.toml"
    file.write_text("port = 5")
    os.chown(file, NOBODY, NOBODY)
    here.chmod(0o1777)  # as /tmp
    assert "it belongs to nobody" in refused_here(here)
    os.chown(file, 54321, 54321)
    assert "it belongs to user 54321" in refused_here(here)


@root
def test_a_link_of_another_user_to_a_file_of_ours_is_not_obeyed(here: Path) -> None:
    (here / "mine").write_text("port = 5")
    file = here / "mpchat.toml"
    file.symlink_to("mine")
    assert Sources.of_command(None, {}).read({})[0].port == 5
    os.chown(file, NOBODY, NOBODY, follow_symlinks=False)
    assert "it belongs to nobody" in refused_here(here)


def test_a_file_that_others_may_write_or_replace_is_not_obeyed(here: Path) -> None:
    file = here / "mpchat.toml"
    file.write_text("port = 5")
    file.chmod(0o646)
    assert f"may write it; close it with: chmod go-w {file}" in refused_here(here)
    file.chmod(0o644)
    here.chmod(0o777)
    assert "may replace it in its folder" in refused_here(here)
    here.chmod(0o1777)
    assert Sources.of_command(None, {}).read({})[0].port == 5


@root
def test_a_group_may_write_the_file_if_it_is_the_users_own_group(here: Path) -> None:
    file = here / "mpchat.toml"
    file.write_text("port = 5")
    file.chmod(0o664)
    assert Sources.of_command(None, {}).read({})[0].port == 5
    os.chown(file, 0, 54321)
    assert "may write it" in refused_here(here)


def test_the_path_of_the_file_is_safe_to_print(here: Path) -> None:
    facts = StartFacts(name="default", pid=1, addresses=["127.0.0.1:1"], workers=1, fits=1, log="")
    text = start_text(at_a_start()[1], facts, os.fsdecode(b"/\xff\x1b[2J/mpchat.toml"))
    assert "\nsettings file: /\\udcff\\x1b[2J/mpchat.toml\n" in text
    text.encode()


def test_the_users_own_file_may_be_a_link_and_is_named_as_the_file_in_force(here: Path) -> None:
    users = here.parent / "home" / ".config" / "mpchat" / "mpchat.toml"
    assert Sources.of_command(None, {}).file == ""
    users.write_text("port = 5")
    users.chmod(users.stat().st_mode | stat.S_IWOTH)
    sources = Sources.of_command(None, {})
    assert (sources.file, sources.read({})[0].port) == (str(users), 5)


def test_a_log_file_is_not_given_up_by_a_reload(here: Path) -> None:
    settings_file = here / "mpchat.toml"
    settings_file.write_text('log_file = "/x.log"\n')
    sources, running = at_a_start(foreground=True)
    assert running.log_file == "/x.log"
    settings_file.write_text("")
    config, kept, *_ = live_settings._read(sources, running, had_accounts=False, also_fixed={})
    assert config.log_file == "/x.log"
    assert "stop and start" in kept["log_file"]


# Several hosts.


def test_a_host_is_called_as_its_machine_and_its_instance_unless_a_setting_names_it(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "서버.example")
    assert at_a_start()[1].host_name == "서버.example-default"
    assert at_a_start(name="second")[1].host_name == "서버.example-second"
    assert at_a_start(host_name="셋째")[1].host_name == "셋째"
    monkeypatch.setattr("socket.gethostname", lambda: "a {b}\n")
    assert at_a_start()[1].host_name == "a--b---default"
    monkeypatch.setattr("socket.gethostname", lambda: "")
    assert at_a_start()[1].host_name == "host-default"


def test_the_file_with_the_password_of_redis_is_found_from_elsewhere(here: Path) -> None:
    sources, config = at_a_start(cluster="redis://a", cluster_password="비밀")
    assert config.cluster_password == str(here / "비밀")
    assert again(sources) == config
    assert at_a_start(cluster_password="env:REDIS")[1].cluster_password == "env:REDIS"


def test_a_reload_keeps_what_makes_a_host_one_of_its_cluster(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MPCHAT_RUNTIME_DIR", raising=False)
    settings_file = here / "mpchat.toml"
    settings_file.write_text('cluster = "redis://a"\n')
    sources, running = at_a_start()
    settings_file.write_text(
        'cluster = "redis://b"\ncluster_password = "env:REDIS"\ncluster_name = "우리반"\nhost_name = "서버"\n'
        'cluster_lease = 5\nauth = "closed"\nnotices = "off"\n'
    )
    config, kept, *_ = live_settings._read(sources, running, had_accounts=False, also_fixed={})
    assert config == msgspec.structs.replace(running, notices=False)
    of_cluster = {"cluster", "cluster_password", "cluster_name", "host_name", "cluster_lease"}
    assert set(kept) == of_cluster | {"auth"}
    assert kept["auth"] == "all hosts of the cluster must have the same; stop all of them and start"


def test_a_reload_of_a_server_that_is_alone_puts_it_into_no_cluster(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MPCHAT_RUNTIME_DIR", raising=False)
    settings_file = here / "mpchat.toml"
    settings_file.write_text("")
    sources, running = at_a_start()
    settings_file.write_text('cluster = "redis://:비밀@a"\nauth = "closed"\n')
    config, kept, *_ = live_settings._read(sources, running, had_accounts=False, also_fixed={})
    assert config == msgspec.structs.replace(running, auth="closed")
    assert kept == {"cluster": "clients would change to another chat; stop and start"}


def test_without_the_library_a_cluster_is_no_start(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    check_installed(at_a_start()[1])
    config = at_a_start(cluster="redis://:비밀@a")[1]
    with pytest.raises(StartError) as caught:
        check_installed(config)
    assert str(caught.value) == "cluster is set, and redis-py is not installed: pip install 'redis>=6.0'"
    monkeypatch.delitem(sys.modules, "redis")
    check_installed(config)


def test_a_folder_of_that_name_is_not_the_library(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "redis").mkdir()
    for name in [each for each in sys.modules if each.split(".")[0] == "redis"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(here)])
    with pytest.raises(StartError, match="redis-py is not installed"):
        check_installed(at_a_start(cluster="redis://a")[1])
