"""Is the process alive, ready, and which version is it?"""
