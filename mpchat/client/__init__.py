"""The client: one core without I/O, and around it asyncio, a blocking twin, and two ways to chat by hand.

Nothing is imported here: who only wants the blocking client does not pay for asyncio.
"""
