"""What looks for traces of what was purged."""
