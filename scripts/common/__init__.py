"""What bench, stress and lecture share. No module here imports from those three."""
