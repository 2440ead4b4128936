"""Findings: what an inspection says, one line a subject. Pure."""

from enum import StrEnum

import msgspec

from mpchat.errors import MpchatError


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    # It serves, and not as well as the settings or the user may expect.
    WARNING = "warning"
    # A start, or a part of what the settings ask for, will fail.
    FAILURE = "failure"


class Finding(msgspec.Struct, frozen=True):
    """A finding about one subject, and the remedy (empty: none is needed)."""

    subject: str
    level: Level
    text: str
    remedy: str = ""


def ok(subject: str, text: str) -> Finding:
    """Return a finding that asks for nothing."""
    return Finding(subject, Level.OK, text)


def warning(subject: str, text: str, remedy: str) -> Finding:
    """Return a finding that a server can serve with."""
    return Finding(subject, Level.WARNING, text, remedy)


def failure(subject: str, text: str, remedy: str) -> Finding:
    """Return a finding that something will fail by."""
    return Finding(subject, Level.FAILURE, text, remedy)


def refused(subject: str, error: MpchatError, page: str = "operating") -> Finding:
    """Return the finding for an error that a start would end with: its line mostly names the next step.

    ``page`` is the page of the manual to read where it does not.
    """
    text, _, remedy = str(error).partition("; ")
    return failure(subject, text, remedy or f"see: mpchat manual {page}")
