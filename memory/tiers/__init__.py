"""Which tiers are there? Hot, semantic, long-term, in the order of speed; each is a cache of the event log."""
