"""The client: a core without I/O, an asyncio client, its blocking twin, and two ways to chat by hand.

Nothing is imported here: a program with the blocking client does not load asyncio.
"""
