"""Inspect: all subjects one after the other, as far as the settings can be read."""

from collections.abc import Callable, Mapping

from mpchat.inspection.findings import Finding, failure
from mpchat.inspection.folders import folders
from mpchat.inspection.installation import installation
from mpchat.inspection.kept import kept
from mpchat.inspection.machine import machine
from mpchat.inspection.network import network
from mpchat.inspection.proofs import proofs
from mpchat.inspection.scope import Scope, scope_of
from mpchat.inspection.settings import settings
from mpchat.settings import Sources
from mpchat.text import visible

# In the order of what depends on what.
SUBJECTS = (machine, folders, kept, proofs, network)


def inspect(sources: Sources, environment: Mapping[str, str]) -> list[Finding]:
    """Return what is found. Takes as long as disks and a name server take."""
    config, found = settings(sources, environment)
    found = [*installation(), *found]
    if config is None:
        return found
    scope, instance = scope_of(config)
    return [*found, instance, *(each for subject in SUBJECTS for each in _examined(subject, scope))]


def _examined(subject: Callable[[Scope], list[Finding]], scope: Scope) -> list[Finding]:
    """Examine one subject; what the system does not let this user see is a finding of its own."""
    try:
        return subject(scope)
    except OSError as error:
        about = visible(str(error.filename)) if error.filename else subject.__name__
        text = f"cannot look at {about}: {error.strerror or error}"
        return [failure(subject.__name__, text, "run the check as the user that the server runs as")]
