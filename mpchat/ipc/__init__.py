"""Between the server's processes: the channel, the hand-off of connections, and what both sides agree on."""
