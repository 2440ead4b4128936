"""Entry of ``python -m scripts.stress``; see ``--help``."""

if __name__ == "__main__":
    # Only here: every client process imports this file once more, and needs neither click nor rich.
    from scripts.stress.command import main

    main(prog_name="python -m scripts.stress")
