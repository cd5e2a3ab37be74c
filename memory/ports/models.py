"""What turns text into vectors and tokens?"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
"""float32 [n, d], unit length"""


QUERY_TEXTS = 4
"""Up to so many texts are a question: they go before an ingest, and take about 40 ms on a CPU core."""


class Embedder(Protocol):
    @property
    def space(self) -> str:
        """Names the vector space: vectors of different spaces are never compared."""

    @property
    def dimensions(self) -> int: ...

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors in the order of `texts`: float32 [len(texts), dimensions].

        Runs off the event loop. Text beyond the model's limit is not read: cut it first (`domain.segments`).
        Raises EmbedderUnavailable.
        """


class Tokenizer(Protocol):
    """sync. Counts and borders of tokens; what the vocabulary can't split counts as its bytes."""

    @property
    def fingerprint(self) -> str:
        """Names vocabulary and rules: counts of different fingerprints don't add up."""

    def count(self, texts: Sequence[str]) -> list[int]: ...

    def spans(self, text: str) -> list[tuple[int, int]]:
        """The characters of each token, ascending and disjoint.

        A word without a token of its own is cut every four characters.
        """


class Models(Protocol):
    """One model's two faces."""

    @property
    def embedder(self) -> Embedder: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
