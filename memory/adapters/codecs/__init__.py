"""Codecs: the same vectors in fewer bytes. `plain` learns nothing, `quantised` is FAISS, `sealed` finds damage."""
