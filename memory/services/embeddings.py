"""Vectors of texts for a client, a few at a time: an ingest beside them waits for them, not they for it."""

import asyncio
from collections.abc import Sequence

import numpy as np

from memory.ports.models import QUERY_TEXTS, Embedder, Tokenizer, Vectors


class Embeddings:
    def __init__(self, embedder: Embedder, tokenizer: Tokenizer) -> None:
        self._embedder = embedder
        self._tokenizer = tokenizer

    @property
    def model(self) -> str:
        return self._embedder.space.partition(":")[0]

    async def embed(self, texts: Sequence[str]) -> tuple[Vectors, int]:
        """float32 [len(texts), dimensions] of unit length, and the tokens of all texts. Raises EmbedderUnavailable."""
        parts = [
            await self._embedder.embed(texts[start : start + QUERY_TEXTS])
            for start in range(0, len(texts), QUERY_TEXTS)
        ]
        tokens = await asyncio.to_thread(self._tokenizer.count, texts)
        return np.concatenate(parts), sum(tokens)
