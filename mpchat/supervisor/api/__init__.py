"""The HTTP API for programs beside the chat: its table, its shapes, and what each operation does."""
