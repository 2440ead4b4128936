"""Limits: sizes that workers and hub agree on."""

# Bytes up to which small posts are joined into one batch: what fits one queue item (see channel.ITEM_SIZE),
# and half of what a worker sends its clients at once (see fanout.ENOUGH).
BATCH_SIZE = 65_000
