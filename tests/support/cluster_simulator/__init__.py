"""Several hosts of one chat in one process: real hubs, a model of the log, clients, and one seed."""
