"""The commands: what ``mpchat start``, ``stop``, ``status`` and the others do, and what they print."""
