"""Text in, vectors and token borders out. torch is imported inside functions: only an embedding pays for it."""
