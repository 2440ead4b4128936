"""What tests share: servers, clients, faults, and waiting with a deadline."""
