"""Limits: sizes that workers and hub agree on."""

# Bytes up to which small posts are joined into one batch: what fits one queue item (see channel.ITEM_SIZE).
BATCH_SIZE = 64 << 10


def most_struggle(struggling: int, clients: int) -> bool:
    """Tell whether those who send should wait until their readers have caught up.

    True when more than half of the clients are far behind although they read as fast as they can: then what
    is sent is more than they can take. A minority never slows the others down; it is cut off when it falls
    out of the stream.
    """
    return 2 * struggling > clients
