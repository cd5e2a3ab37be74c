"""Where torch lives: embedders, generators and the KV cache. Knows nothing of `memory`."""
