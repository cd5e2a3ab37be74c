"""Vectors of texts for a client, a few at a time: an ingest beside them waits for them, not they for it."""

import asyncio
from collections.abc import Sequence

import numpy as np

from memory.ports.models import Embedder, Tokenizer, Vectors

_AT_ONCE = 4


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
            await self._embedder.embed(texts[start : start + _AT_ONCE]) for start in range(0, len(texts), _AT_ONCE)
        ]
        tokens = await asyncio.to_thread(self._tokenizer.count, texts)
        return np.concatenate(parts), sum(tokens)
