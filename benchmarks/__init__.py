"""Measurements of the running service; each file says which question it answers."""
