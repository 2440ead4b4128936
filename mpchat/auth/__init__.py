"""Authentication: which proof belongs to a name, and what it allows."""
