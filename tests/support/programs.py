"""Programs that tests run beside mpchat: a missing one skips a test on a desk, and fails it in CI."""

import os
import shutil
from typing import NoReturn

import pytest


def require(*programs: str) -> None:
    """Skip the running test, or fail it in CI, when one of ``programs`` is not installed."""
    # Some systems keep servers where only root looks.
    path = os.environ.get("PATH", os.defpath) + os.pathsep + "/usr/sbin"
    missing = [each for each in programs if shutil.which(each, path=path) is None]
    if missing:
        absent(f"needs {', '.join(missing)}; apt-get install what the README's second paragraph names")


def absent(reason: str) -> NoReturn:
    """Skip the running test, or fail it in CI, because what it needs is not here."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
