"""Running servers: how a command finds one, asks it, and turns a refusal into an error.

Nothing here touches a lock: a probe from a command would make a concurrent start fail.
"""

import os
from collections.abc import Callable
from typing import Any

from mpchat.config import Config
from mpchat.control.client import ReceivedAnswer
from mpchat.control.client import ask as ask_socket
from mpchat.control.requests import Request
from mpchat.errors import (
    AlreadyRunningError,
    ConfigError,
    MpchatError,
    NotRunningError,
    StartError,
    TimedOutError,
)
from mpchat.instance.owners import check_entry, check_own
from mpchat.instance.paths import Paths, option_text
from mpchat.instance.paths import paths as instance_paths
from mpchat.instance.record import Record, is_server, read_record
from mpchat.settings import Sources, absolute, current_folder

# Seconds that a server gets for a command that it answers from memory.
ANSWER_TIMEOUT = 5.0
# The error that a server's refusal becomes, by its exit code; any other code becomes MpchatError.
_BY_EXIT: dict[int, type[MpchatError]] = {
    each.exit_code: each
    for each in (ConfigError, NotRunningError, AlreadyRunningError, StartError, TimedOutError)
}

OnProgress = Callable[[dict[str, Any]], None]


def server_config(config_file: str | None, flags: dict[str, Any]) -> Config:
    """Return a Config that says where a running server is found; only ``name`` and ``runtime_dir`` count.

    A mistake in another setting must not keep a command from the server.
    """
    return Sources.of_command(config_file, flags).read_address(os.environ)


def addressing(config: Config) -> str:
    """Return the options that address this instance, as they follow a command in a text."""
    return option_text(config.name, config.runtime_dir)


def living_record(config: Config) -> Record | None:
    """Return the record if the server that wrote it lives: no reused pid, no other program.

    Raise :class:`MpchatError` if this user may not look into the instance's folder, or must not trust it.
    """
    record = read_record(_paths(config).record)
    return record if record is not None and is_server(record.supervisor) else None


def folder_owner(config: Config) -> int | None:
    """Return the user id of the owner of the instance's folder; None if there is no folder."""
    try:
        return _paths(config).folder.lstat().st_uid
    except (FileNotFoundError, NotADirectoryError):
        return None


def _paths(config: Config) -> Paths:
    """Return the instance's paths, for a command that obeys what lies there.

    Another user may have made the folder, because its default place can be below /tmp.
    """
    paths = instance_paths(config.name, absolute(config.runtime_dir, current_folder()))
    check_entry(paths.folder)
    check_own(paths.folder)
    return paths


def ask(config: Config, request: Request, timeout: float = ANSWER_TIMEOUT) -> ReceivedAnswer:
    """Ask the server within ``timeout`` seconds; raise its refusal as an error with its exit code."""
    answer = answer_to(config, request, timeout)
    if answer.exit:
        raise refusal(answer)
    return answer


def refusal(answer: ReceivedAnswer) -> MpchatError:
    """Return the error for an answer that is a refusal."""
    return _BY_EXIT.get(answer.exit, MpchatError)(answer.text)


def answer_to(
    config: Config, request: Request, timeout: float, on_progress: OnProgress | None = None
) -> ReceivedAnswer:
    """Ask the server and return its answer, also when that is a refusal.

    Raises :class:`NotRunningError`, or :class:`TimedOutError` for a server that is silent for ``timeout``
    seconds, or :class:`MpchatError` for a folder that this user must not trust.
    """
    try:
        return ask_socket(_paths(config).control, request, timeout, on_progress)
    except NotRunningError:
        if (record := living_record(config)) is None:
            raise _not_running(config) from None
        raise TimedOutError(
            f'mpchat "{config.name}" (pid {record.supervisor.pid}) does not answer: it is starting or '
            "ending, or its control socket was removed and is back in a moment; try again"
        ) from None
    except TimedOutError as error:
        record = living_record(config)
        pid = f" (pid {record.supervisor.pid})" if record else ""
        raise TimedOutError(
            f'mpchat "{config.name}"{pid} hangs: {error}; end it with: mpchat stop --kill{addressing(config)}'
        ) from None


def _not_running(config: Config) -> NotRunningError:
    return NotRunningError(
        f'mpchat "{config.name}" is not running; start it with: mpchat start{addressing(config)}'
    )
