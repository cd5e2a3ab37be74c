"""Long-term: everything, found by vector and by word, for ever."""
