"""Agents of a session and their roles."""
