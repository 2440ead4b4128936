"""Settings: whether they are right, where each came from, and variables that were meant to be settings."""

import difflib
import re
from collections.abc import Mapping

from mpchat.config import BY_NAME, SETTINGS, Config
from mpchat.errors import MpchatError
from mpchat.inspection.findings import Finding, ok, refused, warning
from mpchat.setting_values import FROM_ENVIRONMENT
from mpchat.settings import Sources, check_installed
from mpchat.text import visible

_PREFIX = "MPCHAT_"
# What Kubernetes and Docker set for a service or a container that is called mpchat.
_OF_ORCHESTRATOR = re.compile(r"MPCHAT_(SERVICE_(HOST|PORT)|PORT_\d+_|NAME$|ENV_).*")


def settings(sources: Sources, environment: Mapping[str, str]) -> tuple[Config | None, list[Finding]]:
    """Read the settings as a start does; return them, or None if a start would refuse them."""
    try:
        written, places = sources.read(environment)
        config = sources.ready_to_run(written)
        check_installed(config)
    except MpchatError as error:
        return None, [refused("settings", error, "settings"), *_unknown_variables(environment, frozenset())]
    given = [f"{name} ({visible(place)})" for name, place in places.items() if place != "default"]
    said = f"right; set are {', '.join(given)}" if given else "right; all are defaults"
    secrets = {getattr(config, name) for name in BY_NAME}
    named = {
        each.removeprefix(FROM_ENVIRONMENT)
        for each in secrets
        if isinstance(each, str) and each.startswith(FROM_ENVIRONMENT)
    }
    return config, [ok("settings", said), *_unknown_variables(environment, named)]


def _unknown_variables(environment: Mapping[str, str], named: frozenset[str] | set[str]) -> list[Finding]:
    """Warn of variables that look like settings; ``named`` are those that settings name as the place of a
    secret."""
    known = [each.variable for each in SETTINGS]
    strange = sorted(
        each for each in environment if each.startswith(_PREFIX) and each not in named and each not in known
    )
    return [_unknown(each, known) for each in strange if not _OF_ORCHESTRATOR.fullmatch(each)]


def _unknown(variable: str, known: list[str]) -> Finding:
    close = difflib.get_close_matches(variable, known, n=1)
    meant = f"it may be meant as {close[0]}; " if close else ""
    return warning(
        "settings",
        f"the variable {visible(variable)} is no setting, and nothing follows from it",
        f"{meant}the names of all are in: mpchat manual settings",
    )
