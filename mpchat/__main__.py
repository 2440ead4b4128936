"""``python -m mpchat`` is the command ``mpchat``."""

from .cli import main

if __name__ == "__main__":
    main()
