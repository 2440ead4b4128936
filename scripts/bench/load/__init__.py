"""The load of a bench: processes of clients, and a process of senders.

It costs little. Most bytes are counted, not looked at; only the *witnesses*, a few of the connections, are
parsed in full.
"""
