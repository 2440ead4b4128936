"""Startup: the server's half of a start: what its process is told, and what it reports back.

The command's half is :mod:`mpchat.cli.launch`. What goes between the two is described here, once for both.
"""

import json
import shlex
import signal
import socket
from contextlib import suppress

import msgspec

from mpchat.config import Config
from mpchat.errors import MpchatError
from mpchat.instance.paths import option_text
from mpchat.settings import Sources
from mpchat.text import visible

# Where to connect to a server that listens on every interface.
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}
# An address that is for documentation (RFC 5737), and the port that discards what it gets.
ELSEWHERE = ("192.0.2.1", 9)


class Order(msgspec.Struct, frozen=True):
    """What a server is started with: its settings, and where they came from, to be read again later."""

    config: Config
    sources: Sources


class StartFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the user sees of a server that has just started."""

    name: str
    pid: int
    addresses: list[str]
    workers: int
    # Connections that fit, and the log's path (empty: standard error).
    fits: int
    log: str
    # A name that the certificate is for; empty: TLS is off, or the certificate has only patterns.
    secure_name: str = ""
    # Hosts of the cluster that are there, this one included; None: the server is alone.
    hosts: int | None = None


class Outcome(msgspec.Struct, frozen=True):
    """What a server in the background reports: ``facts`` when it serves, else exit code and reason."""

    facts: StartFacts | None = None
    exit: int = 0
    text: str = ""

    @classmethod
    def failed(cls, error: MpchatError) -> "Outcome":
        """Return the outcome of a start that an error has ended."""
        return cls(exit=error.exit_code, text=str(error))


def encode_order(order: Order) -> bytes:
    """Return an order as bytes for a pipe."""
    # Not msgspec's own JSON: a path may hold bytes that are not text, which Python carries as half pairs.
    return json.dumps(msgspec.to_builtins(order)).encode()


def read_order(descriptor: int) -> Order:
    """Return the order that the command has put into a pipe."""
    with open(descriptor, "rb") as stream:
        return msgspec.convert(json.loads(stream.read()), type=Order)


def report(descriptor: int, outcome: Outcome) -> None:
    """Send the outcome to the command, which may have gone, and close the pipe."""
    with suppress(OSError), open(descriptor, "wb") as stream:
        stream.write(msgspec.json.encode(outcome))


def allow_signals() -> None:
    """Let signals through that were blocked or ignored by whoever started the server.

    The ends of workers would not be seen otherwise, nor a stop. Until the server has its handlers, Ctrl-C
    ends it at once.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def signal_name(number: int) -> str:
    """Return what a signal is called; a number for those without a name, such as the real-time signals."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def start_text(config: Config, facts: StartFacts, settings_file: str = "") -> str:
    """Return what the user should know of a server that has just started."""
    options = option_text(config.name, config.runtime_dir)
    # Without an address it is the server that this folder and environment mean, which may be another one.
    where = _where_to_chat(facts.addresses[0], by_default=not options)
    lines = [
        f'mpchat "{facts.name}" serves at {", ".join(facts.addresses)}',
        f"pid {facts.pid}, workers: {facts.workers}, connections that fit: {facts.fits}",
        f"  chat:  mpchat chat{where}{_proof(config)}",
        f"  watch: mpchat status --watch{options}",
        f"  stop:  mpchat stop{options}",
    ]
    if config.web:
        lines.insert(3, f"  page:  {_page(facts.addresses[0], facts.secure_name, tls=config.tls_on)}")
    if config.auth != "open":
        accounts = f" --accounts {shlex.quote(config.accounts)}" if config.accounts else ""
        lines.insert(-2, f"  names: mpchat user add NAME{visible(accounts)}")
    if facts.hosts is not None:
        name, host = visible(config.cluster_name), visible(config.host_name)
        lines.insert(2, f"cluster: {name} as {host}, {facts.hosts} host{'s' if facts.hosts != 1 else ''}")
    if facts.log:
        lines.insert(2, f"log: {facts.log}")
    if settings_file:
        lines.insert(2, f"settings file: {visible(settings_file)}")
    return "\n".join(lines)


def _proof(config: Config) -> str:
    """Return the options of ``mpchat chat`` with which a client gets into a closed chat."""
    if config.auth != "closed":
        return ""
    if config.secret:
        return " --name NAME --secret"
    return " --token FILE" if config.jwt_key else " --name NAME --password"


def _page(address: str, secure_name: str, *, tls: bool) -> str:
    """Return the page's address for a browser; of a server on every interface, for one on another machine."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if secure_name:
        host = secure_name
    elif host in LOOPBACK:
        host = _own_address() or LOOPBACK[host]
    return f"http{'s' if tls else ''}://{f'[{host}]' if ':' in host else host}:{port}/"


def _own_address() -> str:
    """Return the address from which this machine reaches others; empty without a network. Sends nothing."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(ELSEWHERE)
        return str(sock.getsockname()[0])
    return ""


def _where_to_chat(address: str, *, by_default: bool) -> str:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    host = LOOPBACK.get(host, host)
    return "" if by_default and (host, port) == ("127.0.0.1", "4000") else f" {host} {port}"
