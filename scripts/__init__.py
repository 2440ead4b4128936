"""Programs that measure and test mpchat from outside: run from the checkout as ``python -m scripts.NAME``."""
