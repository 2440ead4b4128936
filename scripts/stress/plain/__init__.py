"""The scenario of plain clients: one order for all, each message exactly once."""
