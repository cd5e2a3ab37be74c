"""Counters of what callers use."""
