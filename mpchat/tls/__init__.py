"""TLS: what runs in a TLS process, which encrypts between clients and workers. Certificates."""
