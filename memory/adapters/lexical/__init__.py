"""BM25: `scan` is the reference in Python, `tantivy_index` is what the server runs."""
