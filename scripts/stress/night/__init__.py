"""A night in five minutes: a server under a service manager, and all that may befall it before the morning.

No clients' trick here: what happens is what happens to a server in use. The table says what the metrics, the
log and the status told of each event.
"""
