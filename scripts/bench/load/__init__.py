"""The load of a bench: processes of clients, and a process of senders; ``python -m scripts.bench.load``.

It costs little. Most bytes are counted, not looked at; only the *witnesses*, a few of the connections, are
parsed in full. It is no program to be started by hand: orders come as lines of JSON on standard input.
"""
