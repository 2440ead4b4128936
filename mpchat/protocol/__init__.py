"""The clients' wire, without I/O: frames, messages, requests, names, and one client's session."""
