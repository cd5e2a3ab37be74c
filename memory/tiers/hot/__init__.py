"""Hot: the recent window of a session, and its KV."""
