"""The server: pure parts first (stream, room, policy), then the loop, then what runs in which process."""
