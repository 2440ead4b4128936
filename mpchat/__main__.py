"""``python -m mpchat`` is the command ``mpchat``; the script of that name begins here too."""

import os
import sys


def main() -> None:
    """Load the command and run it. Ctrl-C during loading ends the process at once, without a traceback."""
    import signal

    loading = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if loading:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from mpchat.cli.commands import main as command

    if loading:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    command()


def leave_current_folder() -> None:
    """Import nothing from the current folder, which ``python -m`` puts first, unless it holds the package."""
    package_folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if not sys.flags.safe_path and sys.path[0] != package_folder:
        del sys.path[0]


if __name__ == "__main__":
    leave_current_folder()
    main()
