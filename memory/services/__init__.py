"""What can be done with the memory: one family of use cases per file."""
