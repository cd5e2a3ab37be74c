"""What is remembered, where it is kept, and how it is recalled. No web, no torch, no SQL outside `adapters/`."""
