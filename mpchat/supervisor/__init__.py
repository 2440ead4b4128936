"""The supervisor: accepts clients, places them, and starts, watches, replaces and stops the workers."""
