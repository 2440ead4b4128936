"""The lecture's ways to serve many clients, measured: ``python -m scripts.lecture``."""
