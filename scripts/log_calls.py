"""Log calls: every call of the package that logs, found in its source: level, template, number of values.

The manual's table of events and the test of the table in the code are made of these.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).resolve().parents[1] / "mpchat"
METHODS = ("debug", "info", "warning", "error", "exception", "critical", "log")
# Levels of the methods that are named otherwise. That of log() is its first argument.
LEVELS = {"exception": "error", "log": "varies"}


class LogCall(NamedTuple):
    """One call. ``template`` is None if it is no literal; ``values`` is None if a ``*`` stands for some."""

    place: str
    level: str
    template: str | None
    values: int | None


def log_calls() -> Iterator[LogCall]:
    """Find every call, in the order of the files."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _is_log_call(node):
                yield _log_call(node, f"{path.relative_to(PACKAGE)}, line {node.lineno}")


def _is_log_call(node: ast.Call) -> bool:
    if not isinstance(node.func, ast.Attribute) or node.func.attr not in METHODS:
        return False
    logger = ast.unparse(node.func.value)
    return logger.split(".")[-1] in ("log", "_log", "logger") or "getLogger(" in logger


def _log_call(node: ast.Call, place: str) -> LogCall:
    assert isinstance(node.func, ast.Attribute)
    method = node.func.attr
    template, *values = node.args[1:] if method == "log" else node.args
    literal = isinstance(template, ast.Constant) and isinstance(template.value, str)
    return LogCall(
        place,
        LEVELS.get(method, method),
        template.value if literal else None,  # type: ignore[attr-defined]
        None if any(isinstance(each, ast.Starred) for each in values) else len(values),
    )
