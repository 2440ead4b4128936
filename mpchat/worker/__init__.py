"""The worker: reads its clients, sends them what the hub says, and moves them to other workers."""
