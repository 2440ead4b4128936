"""Real proxies for tests: haproxy and nginx, each in front of a server in the ways that the manual names."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from support.harness import free_port
from support.programs import require
from support.waiting import eventually

LOOPBACK = "127.0.0.1"
# Where Debian keeps nginx's module for streams.
STREAM_MODULE = "/usr/lib/nginx/modules/ngx_stream_module.so"
_HAPROXY = """
global
    maxconn 500
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend v1
    bind 127.0.0.1:{haproxy-v1}
    default_backend v1
frontend v2
    bind 127.0.0.1:{haproxy-v2}
    default_backend v2
frontend tls
    bind 127.0.0.1:{haproxy-tls} ssl crt {both}
    default_backend v2
backend v1
    server mpchat 127.0.0.1:{server} send-proxy check inter 200
backend v2
    server mpchat 127.0.0.1:{server} send-proxy-v2 check inter 200
"""
_NGINX = """
load_module {module};
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{ worker_connections 500; }}
stream {{
    server {{
        listen 127.0.0.1:{nginx-stream};
        proxy_pass 127.0.0.1:{server};
        proxy_protocol on;
    }}
}}
http {{
    access_log off;
    client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
    uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
    server {{
        listen 127.0.0.1:{nginx-http};
        listen 127.0.0.1:{nginx-https} ssl;
        ssl_certificate {chain};
        ssl_certificate_key {key};
        location / {{
            proxy_pass http://127.0.0.1:{server};
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_read_timeout 1h;
        }}
    }}
}}
"""
WAYS = ("haproxy-v1", "haproxy-v2", "haproxy-tls", "nginx-stream", "nginx-http", "nginx-https")


@contextmanager
def proxies(folder: Path, server: int, chain: Path, key: Path) -> Iterator[dict[str, int]]:
    """Run both in front of the port ``server``; yield the port of each way."""
    require("haproxy", "nginx")
    ports = {way: free_port() for way in WAYS}
    both = folder / "both.pem"
    both.touch(0o600)
    both.write_bytes(chain.read_bytes() + key.read_bytes())
    names = {"server": server, "folder": folder, "chain": chain, "key": key, "both": both, **ports}
    haproxy, nginx = folder / "haproxy.cfg", folder / "nginx.conf"
    haproxy.write_text(_HAPROXY.format(**names))
    nginx.write_text(_NGINX.format(**names, module=STREAM_MODULE))
    with ExitStack() as stack:
        for command in (["haproxy", "-db", "-f", haproxy], ["nginx", "-c", nginx]):
            stack.enter_context(_running([str(part) for part in command], folder / f"{command[0]}.out"))
        eventually(lambda: all(map(_listens, ports.values())), "the proxies listen")
        yield ports


@contextmanager
def _running(command: list[str], output: Path) -> Iterator[None]:
    path = "/usr/sbin:/usr/bin:/bin"
    with output.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env={"PATH": path})
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


def _listens(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True
