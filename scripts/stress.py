"""Stress an mpchat server with many clients and, on request, faults; say whether it kept its promises.

``python scripts/stress.py --seconds 60 --kill-workers --stall --garbage --disconnect-storm`` starts a server
of its own in a folder of its own, lets client processes chat over it while things break, checks every byte
that every client got against one order, and prints a verdict. It is no benchmark: the load is paced so that
the clients keep up. Exit code 0: clean; 1: not clean, or it could not go on; 2: wrong usage. Whatever
happens, the server, the client processes and the folder are gone at the end.

How it is built, in reading order: ``stress_frames`` (test messages), ``stress_order`` (streams against one
order), ``stress_findings`` (what is wrong, and the order against its senders), ``stress_clients`` (a client
process), ``stress_rude`` and ``stress_garbage`` (those that misbehave), ``stress_crew`` (the client
processes seen from here), ``stress_server`` (the server seen from here), ``stress_changes`` (reloads and
scalings), ``stress_faults``, ``stress_run`` (the order of things), ``stress_report`` (the verdict, and what
``--json`` holds), ``stress_command`` (its flags).
"""

if __name__ == "__main__":
    # Only here: every client process imports this file once more, and needs neither click nor rich.
    from stress_command import main

    main()
