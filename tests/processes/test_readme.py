"""The README's examples, as they stand there, against a real server."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.harness import Server
from support.programs import require
from support.waiting import PATIENCE

from mpchat.config import SETTINGS, parse_file, resolve
from mpchat.errors import Exit

README = (Path(__file__).parents[2] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python_example(server: Server, tmp_path: Path, number: int) -> None:
    script = tmp_path / "example.py"
    script.write_text(blocks("python")[number])
    host, port = server.address
    said = run([sys.executable, "-W", "error", str(script), host, str(port), "hello, 안녕"])
    assert said.startswith("hello")


def test_c_sharp_client_of_the_lecture(server: Server, tmp_path: Path) -> None:
    require("mcs", "mono")
    (tmp_path / "client.cs").write_text(blocks("csharp")[0])
    run(["mcs", f"-out:{tmp_path / 'client.exe'}", str(tmp_path / "client.cs")])
    host, port = server.address
    said = run(["mono", str(tmp_path / "client.exe"), host, str(port), "hello. 안녕하세요"])
    assert said.strip() == '{"message":"hello. 안녕하세요"}'


def test_settings_table_is_the_table() -> None:
    for setting in SETTINGS:
        row = next(line for line in README.splitlines() if line.startswith(f"| `{setting.name}` |"))
        assert setting.allowed in row, setting.name
        assert setting.help in row, setting.name


def test_settings_file_is_right() -> None:
    config, _ = resolve([parse_file(blocks("toml")[0], "mpchat.toml")])
    assert (config.host, config.idle_timeout, config.notices) == (("127.0.0.1", "::1"), 3600.0, False)


def test_status_object_is_described(server: Server) -> None:
    facts = server.status()
    described = set(re.findall(r"`(\w+)`", README.split("`mpchat status --json` is a contract")[1]))
    assert {*facts, *facts["workers"][0]} <= described


def test_exit_codes_are_all_there() -> None:
    assert all(f"| {int(code)} | " in README for code in Exit)


def test_map_names_every_module() -> None:
    package = Path(__file__).parents[2] / "mpchat"
    names = {
        str(path.relative_to(package).with_suffix(""))
        for path in package.rglob("*.py")
        if not path.name.startswith("__")
    }
    named = set(re.findall(r"`([a-z/_]+)`", README.split("## How it is built")[1].split("## Limits")[0]))
    assert names <= named, f"not in the README's map: {sorted(names - named)}"
