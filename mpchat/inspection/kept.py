"""Kept: what outlasts a server: history, bans and mutes, and registered names."""

import os
from functools import partial
from pathlib import Path

from mpchat.auth import accounts
from mpchat.config import Config
from mpchat.errors import MpchatError
from mpchat.hub import history_file
from mpchat.hub.moderation_file import read_moderation, trusted
from mpchat.inspection.databases import Kind, fault_of
from mpchat.inspection.findings import Finding, failure, ok, refused, warning
from mpchat.inspection.folders import why_not_written
from mpchat.inspection.scope import Scope
from mpchat.instance.second_start import is_locked
from mpchat.instance.trusted_file import check_own_file
from mpchat.text import visible

_HISTORY = Kind(history_file.APPLICATION_ID, history_file.FORMAT)
_ACCOUNTS = Kind(accounts.APPLICATION_ID, accounts.FORMAT)


def kept(scope: Scope) -> list[Finding]:
    """Look at the files."""
    return [_history(scope), _bans(scope), _accounts(scope.config)]


def _history(scope: Scope) -> Finding:
    if not scope.config.history:
        return ok("history", "in memory only")
    path = Path(scope.config.history)
    shown = visible(str(path))
    if why := why_not_written(path):
        return failure("history", f"cannot write {shown}: {why}", "see --history")
    ours = scope.running is not None and scope.running.history is not None
    if is_locked(Path(f"{path.resolve()}-lock")) and not ours:
        return failure(
            "history", f"{shown} is used by another server", "stop that one, or choose another file"
        )
    if not os.path.exists(path):
        return ok("history", f"{shown}, which a start makes")
    if fault := fault_of(path, _HISTORY):
        return failure("history", f"{shown}: {visible(fault)}", "choose another file, or move it away")
    return ok("history", f"{shown}, {os.stat(path).st_size >> 20} MiB")


def _bans(scope: Scope) -> Finding:
    if scope.config.cluster:
        return ok("bans", "in the log of the cluster")
    path = Path(scope.config.bans or scope.paths.bans)
    check = partial(check_own_file, path, public=True) if scope.config.bans else trusted
    try:
        found = read_moderation(path, check)
    except MpchatError as error:
        return refused("bans", error)
    text = f"{visible(str(path))}: {len(found.bans)} bans, {len(found.mutes)} mutes"
    if scope.config.bans and (why := why_not_written(path)):
        return warning("bans", f"{text}; no ban can be kept: {why}", "see --bans")
    return ok("bans", text)


def _accounts(config: Config) -> Finding:
    try:
        path = Path(config.accounts) if config.accounts else accounts.default_path()
        about = check_own_file(path) if config.accounts or config.auth_on else None
    except MpchatError as error:
        if not config.auth_on:
            return ok("accounts", "no name can be registered, and no setting asks for that")
        return refused("accounts", error)
    except OSError as error:
        return failure("accounts", f"cannot use {config.accounts}: {error.strerror}", "see --accounts")
    if about is None:
        return _nobody(config, path)
    if fault := fault_of(path, _ACCOUNTS):
        return failure("accounts", f"{visible(str(path))}: {visible(fault)}", "choose another file")
    return ok("accounts", visible(str(path)))


def _nobody(config: Config, path: Path) -> Finding:
    """Return what it means that no name is registered."""
    if config.auth == "closed" and not (config.jwt_key or config.secret):
        text = "auth is closed, and nobody can come in: no account, no jwt_key, no secret"
        return warning("accounts", text, "mpchat user add NAME")
    return ok("accounts", f"no name is registered ({visible(str(path))})")
