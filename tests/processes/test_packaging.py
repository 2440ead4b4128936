"""The wheel: it has all that the package has, works without the clone, and always has the same bytes."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

import pytest
from support.containerfile import copied
from support.harness import Server, assert_nothing_left

import mpchat

pytestmark = pytest.mark.one_python

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mpchat"
# 2001-09-09 and 2033-05-18, in seconds since 1970: when the files of two clones were written.
EARLY, LATE = 1_000_000_000, 2_000_000_000


def clone(folder: Path, written: int, umask: int) -> Path:
    """Copy what the Containerfile says that a build needs, as another user gets it at another time."""
    before = os.umask(umask)
    try:
        folder.mkdir(parents=True)
        for name in copied():
            source = ROOT / name
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, folder / name, ignore=ignored, copy_function=shutil.copyfile)
            else:
                shutil.copyfile(source, folder / name)
    finally:
        os.umask(before)
    for path in folder.rglob("*"):
        os.utime(path, (written, written))
    return folder


class Built(NamedTuple):
    """What one ``python -m build`` has made."""

    wheel: Path
    archive: Path


def build(source: Path, into: Path, **variables: str) -> Built:
    environment = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(into), str(source)],
        env={**environment, **variables},
        check=True,
        capture_output=True,
        timeout=60,
    )
    return Built(next(into.glob("*.whl")), next(into.glob("*.tar.gz")))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("built")
    return build(clone(folder / "clone", EARLY, 0o022), folder / "dist")


class Installed(NamedTuple):
    """An environment that has the wheel, and a folder to run it from."""

    binaries: Path
    server: Server

    def run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        # Nothing of this process's surroundings may help.
        environment = {
            name: value for name, value in self.server.environment.items() if not name.startswith("PYTHON")
        }
        return subprocess.run(
            [str(self.binaries / words[0]), *words[1:]],
            env=environment,
            cwd=self.server.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """The wheel in an environment of its own; the packages that it needs are those of this one."""
    folder = tmp_path_factory.mktemp("clean")
    environment = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = str(environment / "bin" / "python")
    install = ["install", "-q", "--no-deps", "--no-index", "--no-compile", str(built.wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", python, *install], check=True)
    packages = next((environment / "lib").glob("python3.*/site-packages"))
    # A folder that such a line names is searched last, and .pth files in it, such as a clone's, do not count.
    (packages / "needed.pth").write_text("\n".join(each for each in sys.path if "site-packages" in each))
    server = Server(folder)
    try:
        yield Installed(environment / "bin", server)
    finally:
        server.end()
        assert_nothing_left(folder)


def test_two_builds_of_one_commit_have_the_same_bytes(built: Built, tmp_path: Path) -> None:
    source = clone(tmp_path / "elsewhere" / "and deeper", LATE, 0o077)
    again = build(source, tmp_path / "dist", PYTHONHASHSEED="1", TZ="Asia/Seoul")
    assert [each.name for each in again] == [each.name for each in built]
    for first, second in zip(built, again, strict=True):
        assert first.read_bytes() == second.read_bytes(), first.name


def test_the_wheel_has_every_file_of_the_package(built: Built) -> None:
    there = {str(path.relative_to(ROOT)) for path in PACKAGE.rglob("*") if path.is_file()}
    expected = {path for path in there if "__pycache__" not in path}
    with zipfile.ZipFile(built.wheel) as wheel:
        packed = {each for each in wheel.namelist() if ".dist-info/" not in each}
    assert packed == expected
    assert {
        "mpchat/py.typed",
        "mpchat/web/page.js",
        "mpchat/client/Mpchat.cs",
        "mpchat/cluster/scripts/append.lua",
        "mpchat/manual/wire.md",
    } <= packed


def test_the_wheel_is_installed_and_runs_without_the_clone(installed: Installed) -> None:
    where = installed.run("python", "-c", "import mpchat; print(mpchat.__file__)")
    assert where.stdout.startswith(str(installed.binaries.parent)), where.stderr
    version = installed.run("mpchat", "--version")
    assert version.stdout == f"mpchat, version {mpchat.__version__}\n"
    started = installed.run("mpchat", "start", "--port", "0", "--workers", "1")
    assert (started.returncode, started.stderr) == (0, "")
    host, port = installed.server.address
    with urlopen(f"http://{host}:{port}/", timeout=20.0) as page:
        assert b"<title>" in page.read()
    assert installed.run("mpchat", "say", "hello").returncode == 0
    manual = installed.run("mpchat", "manual", "wire")
    assert manual.stdout == (PACKAGE / "manual" / "wire.md").read_text()
    library = installed.run("mpchat", "client", "csharp")
    assert library.stdout == (PACKAGE / "client" / "Mpchat.cs").read_text()
    stopped = installed.run("mpchat", "stop")
    assert (stopped.returncode, stopped.stderr) == (0, "")
