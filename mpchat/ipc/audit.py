"""Audit trail: what operators did, with the result: a line of the log each, which is always written.

Neither ``log_level`` nor the count of repeats keeps such a line back. It is written when the result is known.
"""

import logging
from typing import NamedTuple

# Characters of a target that are kept: an announcement may be long.
LONGEST_TARGET = 200

log = logging.getLogger("mpchat.audit")
log.setLevel(logging.INFO)


class Act(NamedTuple):
    """What somebody has asked for.

    ``actor`` is who, for people. ``action`` is the command, such as ``ban``. ``target`` is a name, an
    address, a room, a number or the text of an announcement. ``seconds`` is for how long; None: for good, or
    the action takes no time. ``address`` is where a request came from; empty: from this machine.
    """

    actor: str
    action: str
    target: str = ""
    seconds: float | None = None
    address: str = ""


def record(act: Act, result: str = "done") -> None:
    """Write what was asked for, and what became of it."""
    fields = {name: value for name, value in act._asdict().items() if value not in ("", None)}
    if len(act.target) > LONGEST_TARGET:
        fields["target"] = act.target[:LONGEST_TARGET] + "…"
    what = act.action + (f" {quoted(fields['target'])}" if act.target else "")
    time = "" if act.seconds is None else f" for {act.seconds:g} s"
    place = f" at {act.address}" if act.address else ""
    named = {"audit": {**fields, "result": result}}
    log.info("audit: %s%s, by %s%s: %s", what, time, act.actor, place, result, extra=named)


def quoted(text: str) -> str:
    """Return a text in quotes, so that no text can pass for what follows it."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
