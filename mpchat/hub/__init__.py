"""The hub: takes messages from all workers, gives them one order, keeps rooms, members and history."""
