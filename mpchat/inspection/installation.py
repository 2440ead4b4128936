"""Installation: this Python, and the packages that mpchat needs, by what the package itself declares."""

import platform
import re
import sys
from importlib import metadata

from mpchat import __version__
from mpchat.inspection.findings import Finding, failure, ok, warning

# The oldest Python, as the package declares it.
OLDEST = (3, 11)
# A requirement such as "click>=8.2", without an environment marker: those are of extras.
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)>=([0-9.]+)")


def installation() -> list[Finding]:
    """Look at Python and the packages."""
    return [_python(), _packages()]


def _python() -> Finding:
    text = f"{platform.python_implementation()} {platform.python_version()} at {sys.executable}"
    if sys.version_info[:2] < OLDEST:
        return failure("python", text, f"mpchat needs Python {OLDEST[0]}.{OLDEST[1]} or newer")
    return ok("python", text)


def _packages() -> Finding:
    try:
        declared = metadata.requires("mpchat") or []
    except metadata.PackageNotFoundError:
        return warning(
            "packages",
            f"mpchat {__version__} is not installed as a package",
            "install it with pip: pip install .",
        )
    needs = [match.groups() for each in declared if (match := _REQUIREMENT.fullmatch(each))]
    wrong = [fault for name, oldest in needs if (fault := _fault(name, oldest))]
    if wrong:
        names = " ".join(f"'{name}>={oldest}'" for name, oldest in needs if _fault(name, oldest))
        return failure("packages", "; ".join(wrong), f"pip install {names}")
    return ok("packages", f"mpchat {__version__}, and the {len(needs)} packages that it needs")


def _fault(name: str, oldest: str) -> str:
    """Return what is wrong with a package; empty: nothing."""
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return f"{name} is not installed"
    return f"{name} {found} is older than {oldest}" if _numbers(found) < _numbers(oldest) else ""


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version, without zeros at the end: 9.0 is 9."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, re.sub(r"(\.0+)+$", "", match[0]).split("."))) if match else ()
