"""Stress tests: ``python -m scripts.stress SCENARIO`` runs many clients and faults, and checks every client.

One engine, and scenarios on it. In reading order: ``engine`` (a run from beginning to end, and what a
scenario is), ``options``, ``clients`` (a client process), ``fleet`` (the client processes seen from the
parent), ``faults``, ``changes`` (reloads and scalings), ``start_storm``, ``findings``, ``report``,
``command``. The scenarios: ``plain`` (clients without a name: one order for all, each message exactly once),
``members`` (clients with a name: rooms, private messages, coming back by token and number), ``hostile``
(clients that mean harm) and ``cluster`` (several hosts over one Redis).

A new scenario is a subclass of :class:`scripts.stress.engine.Scenario`, a subclass of
:class:`scripts.stress.clients.ClientLoop`, and an entry in ``command``'s table.
"""
