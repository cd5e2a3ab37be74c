"""Recall over HTTP."""
