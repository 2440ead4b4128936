"""The server's process: ``mpchat.supervisor NAME FOLDER SETTINGS OUTCOME``.

:mod:`mpchat.cli.launch` starts it through :mod:`mpchat.supervisor.boot`. NAME and FOLDER, the
instance's name and folder, are there for people and commands that read a list of processes. SETTINGS is the
descriptor of a pipe with the settings and their sources. OUTCOME is the descriptor of a pipe for what became
of the start, or -1 when the server runs in the foreground and tells the user itself.
"""

import gc
import os
import sys

from mpchat.errors import Exit, MpchatError
from mpchat.ipc import logs, os_process
from mpchat.ipc.standard_stream import StandardStream
from mpchat.supervisor import orphans
from mpchat.supervisor.starter import find_manager
from mpchat.supervisor.startup import Outcome, StartFacts, allow_signals, read_order, report, start_text
from mpchat.supervisor.supervisor import Supervisor


def main() -> int:
    """Run the server; return the exit code."""
    gc.freeze()
    gc.enable()
    allow_signals()
    orphans.end_on_signals()
    settings, outcome = int(sys.argv[3]), int(sys.argv[4])
    order = read_order(settings)
    if outcome >= 0:
        os.set_inheritable(outcome, False)
    os.chdir("/")
    manager = find_manager(os.environ, foreground=outcome < 0)
    # Standard error becomes the log; in the foreground the start's own words go to the terminal.
    terminal, output = (_stream(os.dup(2)), _stream(1)) if outcome < 0 else (None, None)

    def on_ready(facts: StartFacts) -> None:
        nonlocal outcome
        if outcome >= 0:
            report(outcome, Outcome(facts))
            outcome = -1  # reported, and closed
        else:
            print(start_text(order.config, facts, order.sources.file), file=output)

    logs.set_up(order.config.log_level, "supervisor", log_format=order.config.log_format)
    try:
        Supervisor(order, on_ready, manager).run()
    except MpchatError as error:
        if outcome >= 0:
            report(outcome, Outcome.failed(error))
        manager.failed(error)
        if terminal is not None:
            print(_error_line(error, terminal.fileno()), file=terminal)
        return error.exit_code
    finally:
        manager.close()
        for stream in (terminal, output):
            if stream is not None:
                stream.drain(logs.DRAIN)
    return Exit.OK


def _error_line(error: MpchatError, descriptor: int) -> str:
    """Return what the terminal, or the journal, at a descriptor is told of an error."""
    line = f"mpchat: {error}"
    if not os.environ.get("JOURNAL_STREAM"):
        return line
    from mpchat.ipc import journal

    return journal.marked(line) if journal.is_journal(descriptor) else line


def _stream(descriptor: int) -> StandardStream:
    """Return a stream for what the user is told; a server serves on when it cannot be written."""
    return StandardStream(descriptor, lambda count: "")


if __name__ == "__main__":
    os_process.end(main())
