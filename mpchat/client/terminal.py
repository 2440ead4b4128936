"""``run_chat``: chat by hand or from a script, on a screen or in plain lines; returns an exit code.

The screen needs a terminal for input and for output; otherwise lines go in and out. No error that a user can
cause ends in a traceback.
"""

import asyncio
import sys
from typing import TYPE_CHECKING, Unpack

from mpchat.client.conversation import DEFAULT_ROOM
from mpchat.client.lines import refusal
from mpchat.client.plain import note, run_plain
from mpchat.client.proof import Shown
from mpchat.errors import Exit, MpchatError, RefusedError

if TYPE_CHECKING:
    from mpchat.client.secure import Tls


def run_chat(
    host: str,
    port: int,
    *,
    plain: bool,
    name: str | None = None,
    room: str = DEFAULT_ROOM,
    tls: "Tls" = False,
    **proof: Unpack[Shown],
) -> Exit:
    """Chat with the server at ``host``, ``port`` until the user leaves, and return the exit code.

    With a ``name`` the user is a member of ``room``; without one a plain client, like the lecture's clients.
    ``tls`` and ``proof`` (``password``, ``jwt`` or ``secret``) as in :func:`mpchat.connect`.
    """
    try:
        if plain or not _has_terminal():
            return run_plain(host, port, name=name, room=room, tls=tls, **proof)
        # Not before it is needed: importing prompt_toolkit takes longer than all the rest.
        from mpchat.client.screen import run_screen

        return asyncio.run(run_screen(host, port, name=name, room=room, tls=tls, **proof))
    except KeyboardInterrupt:
        return Exit.OK
    except RefusedError as error:
        note(refusal(error.code, error.text, error.proofs))
        return error.exit_code
    except MpchatError as error:
        note(str(error))
        return error.exit_code


def _has_terminal() -> bool:
    # Python sets these to None when the descriptor was closed before it started.
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))
