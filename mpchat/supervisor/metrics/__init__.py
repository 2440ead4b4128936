"""Metrics: the figures of all processes, their totals, and the page that Prometheus reads."""
