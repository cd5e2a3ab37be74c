"""Vector indexes: `flat` is the reference in numpy, `faiss_index` is what the server runs, `milvus` asks a cluster."""
