"""Webhook: sends what is said in rooms, and who enters and leaves, to a program of the operator's, by HTTP.

The loop only puts events into a queue of bounded size. A thread makes batches of them, in order, and sends
one after the other; see :mod:`mpchat.hook.hook`.
"""
