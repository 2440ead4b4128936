"""The control socket: how commands ask a running server."""
