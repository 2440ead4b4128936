"""The wire, without I/O: frames, messages, and one client's session."""
