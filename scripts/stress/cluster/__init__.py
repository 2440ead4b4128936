"""The scenario of several hosts: one chat over one Redis, with faults in hosts, in Redis and between them.

In reading order: ``scenario`` (options, phases, what is compared at the end), ``hosts`` (the hosts and their
Redis), ``host_faults``, ``redis_faults`` and ``relay`` (what happens to them), ``clients`` and
``conversation`` (members that change hosts), ``plain`` and ``stays`` (plain clients, each of one host).
"""
