"""Site: the files that a browser may ask for, in memory. Only these: no request's path reaches the disk."""

import hashlib
from collections.abc import Mapping
from importlib.resources import files
from typing import NamedTuple

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "webmanifest": "application/manifest+json",
}
# Paths that mean a file of another name.
_ALSO = {"/": "index.html", "/favicon.ico": "icon.svg"}


class File(NamedTuple):
    """A file: what it holds, what that is, and a tag that changes with it."""

    body: bytes
    kind: str
    tag: str


def load_site() -> Mapping[str, File]:
    """Return the package's files by the path of a request."""
    site: dict[str, File] = {}
    for each in files("mpchat").joinpath("web").iterdir():
        kind = _TYPES.get(each.name.rpartition(".")[2])
        if kind is not None and each.is_file():
            body = each.read_bytes()
            site[f"/{each.name}"] = File(body, kind, f'"{hashlib.sha256(body).hexdigest()[:16]}"')
    for path, name in _ALSO.items():
        if f"/{name}" in site:
            site[path] = site[f"/{name}"]
    return site
