"""Inspect: all subjects one after the other, as far as the settings can be read."""

from collections.abc import Mapping

from mpchat.inspection.findings import Finding
from mpchat.inspection.folders import folders
from mpchat.inspection.installation import installation
from mpchat.inspection.kept import kept
from mpchat.inspection.machine import machine
from mpchat.inspection.network import network
from mpchat.inspection.proofs import proofs
from mpchat.inspection.scope import scope_of
from mpchat.inspection.settings import settings
from mpchat.settings import Sources

# In the order of what depends on what.
SUBJECTS = (machine, folders, kept, proofs, network)


def inspect(sources: Sources, environment: Mapping[str, str]) -> list[Finding]:
    """Return what is found. Takes as long as disks and a name server take."""
    config, found = settings(sources, environment)
    found = [*installation(), *found]
    if config is None:
        return found
    scope, instance = scope_of(config)
    return [*found, instance, *(each for subject in SUBJECTS for each in subject(scope))]
