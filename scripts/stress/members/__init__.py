"""The scenario of members: clients with a name, rooms, private messages, and coming back."""
