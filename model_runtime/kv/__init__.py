"""KV of token blocks: what names it, where it lies, how it is checked. Anything doubtful is a miss."""
