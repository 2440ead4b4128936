"""Several hosts as one chat: the log of entries that they share, and the store that keeps it."""
