"""Keepers of KV."""
