"""Who vouches for callers beside our own keys."""
