"""Where a server listens, or a client is: a host and a port."""

Address = tuple[str, int]
