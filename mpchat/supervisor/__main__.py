"""The server's process: ``python -m mpchat.supervisor NAME SETTINGS OUTCOME``.

:mod:`mpchat.cli.launch` starts it.

SETTINGS is the descriptor of a pipe with the settings and their sources, OUTCOME the one of a pipe for what
became of the start, or -1 when the server runs in the foreground and says so itself.
"""

import os
import sys
from typing import Any

from mpchat.errors import Exit, MpchatError
from mpchat.ipc import logs
from mpchat.supervisor.startup import Outcome, failed, report, start_text, take_interrupts, take_order
from mpchat.supervisor.supervisor import Supervisor


def main() -> int:
    take_interrupts()
    settings, outcome = int(sys.argv[2]), int(sys.argv[3])
    order = take_order(settings)
    config = order.config
    if outcome >= 0:
        os.set_inheritable(outcome, False)
    os.chdir("/")
    # Standard error becomes the log; what a start has to say goes to whoever started it.
    terminal = os.fdopen(os.dup(2), "w")

    def on_ready(facts: dict[str, Any]) -> None:
        nonlocal outcome
        if outcome >= 0:
            report(outcome, Outcome(facts))
            outcome = -1  # told, and closed
        else:
            print(start_text(config, facts), flush=True)

    logs.set_up(config.log_level, "supervisor")
    try:
        Supervisor(config, on_ready, order.sources).run()
    except MpchatError as error:
        if outcome >= 0:
            report(outcome, failed(error))
        print(f"mpchat: {error}", file=terminal, flush=True)
        return error.exit_code
    return Exit.OK


if __name__ == "__main__":
    sys.exit(main())
