"""Limits: sizes that workers and hub agree on."""

# Bytes up to which small posts are joined into one batch: what fits one queue item (see channel.ITEM_SIZE).
BATCH_SIZE = 64 << 10
