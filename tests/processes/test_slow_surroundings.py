"""A name server that does not answer: nobody waits for it but the command that needs it."""

import signal
import subprocess
from pathlib import Path

from support.harness import MPCHAT, Server
from support.injected import inject_into_supervisor
from support.waiting import eventually

# Seconds that a stop may take on a busy machine.
IN_TIME = 15.0

# A name server that knows no answer while "lookup" is flagged.
SLOW_RESOLVER = """
    def install():
        real = socket.getaddrinfo
        def getaddrinfo(host, *arguments, **more):
            if host == "slow.example" and not more.get("flags", 0) & socket.AI_NUMERICHOST:
                hold("lookup")
                host = "127.0.0.1"
            return real(host, *arguments, **more)
        socket.getaddrinfo = getaddrinfo
"""


def waits(flag: Path) -> None:
    """Wait until the server has met what the flag holds up."""
    eventually(lambda: flag.with_name(f"{flag.name} waits").exists(), f"the {flag.name} to be waited for")


def test_a_stop_does_not_wait_for_a_name_server_at_the_start(folder: Path) -> None:
    server = Server(folder)
    flag = inject_into_supervisor(server, SLOW_RESOLVER) / "lookup"
    flag.touch()
    command = [*MPCHAT, "start", "--foreground", "--port", "0", "--host", "slow.example"]
    process = subprocess.Popen(command, env=server.environment, cwd=folder, stderr=subprocess.PIPE, text=True)
    try:
        waits(flag)
        process.send_signal(signal.SIGHUP)  # the start goes on
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=IN_TIME)
        assert process.returncode == 0
        assert "stopping: signal SIGTERM" in said
        assert "Traceback" not in said
    finally:
        process.kill()
        process.communicate()
