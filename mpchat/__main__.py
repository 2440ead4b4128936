"""``python -m mpchat`` is the command ``mpchat``; the script of that name begins here too."""

import signal


def main() -> None:
    """Load the command and run it. Ctrl-C during loading ends the process at once, without a traceback."""
    loading = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if loading:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from mpchat.cli.commands import main as command

    if loading:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    command()


if __name__ == "__main__":
    main()
