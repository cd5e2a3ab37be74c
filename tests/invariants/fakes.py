"""A model that is quick and the same every time: a bag of hashed words."""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from memory.ports.models import Vectors

_WORD = re.compile(r"\w+")


def vector_of(text: str, dimensions: int) -> np.ndarray:
    """Unit length; texts with common words are near each other."""
    vector = np.full(dimensions, 1e-3, np.float32)
    for word in _WORD.findall(text.lower()):
        digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
        place, sign = int.from_bytes(digest[:4]) % dimensions, 1 if digest[4] % 2 else -1
        vector[place] += sign
    return vector / np.linalg.norm(vector)


class HashingEmbedder:
    """An Embedder. `before`: awaited first, so that a test can hold it up or fail it."""

    def __init__(self, dimensions: int = 256) -> None:
        self.space = f"hashed-{dimensions}"
        self.dimensions = dimensions
        self.before: Callable[[Sequence[str]], Awaitable[None]] | None = None
        self.embedded = 0

    async def embed(self, texts: Sequence[str]) -> Vectors:
        if self.before is not None:
            await self.before(texts)
        await asyncio.sleep(0)
        self.embedded += len(texts)
        if not texts:
            return np.empty((0, self.dimensions), np.float32)
        return np.stack([vector_of(text, self.dimensions) for text in texts])

    def close(self) -> None: ...


class WordTokenizer:
    """One token a word."""

    fingerprint = "words"

    def count(self, texts: Sequence[str]) -> list[int]:
        return [max(len(text.split()), min(1, len(text))) for text in texts]

    def spans(self, text: str) -> list[tuple[int, int]]:
        return [match.span() for match in re.finditer(r"\S+", text)]


@dataclass(frozen=True)
class FakeModels:
    embedder: HashingEmbedder = field(default_factory=HashingEmbedder)
    tokenizer: WordTokenizer = field(default_factory=WordTokenizer)
