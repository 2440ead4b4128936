"""The scenario of hostile clients: what they do, and what an innocent client beside them feels of it."""
