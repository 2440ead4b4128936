"""Inspection: what would keep a server from starting or serving here, found without a start.

One module for each subject. They ask the modules that a start asks, change nothing, take no lock, and work
beside a running server.
"""
