"""The instance: what makes a server the only one of its name, and where its files are."""
