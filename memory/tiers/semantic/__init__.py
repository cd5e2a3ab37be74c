"""Semantic: segments of the last hundred turns, clustered."""
