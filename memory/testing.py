"""Stand-ins for tests: simple, fast and honest about what they are.

Indexes and queues have reference implementations beside the real adapters: `adapters/vectors/flat.py`,
`adapters/lexical/scan.py`, `adapters/jobs/recording.py`.
"""

import hashlib
import re
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np

from memory.domain.generation import CachedTokens, ChatMessage, Chunk, Delta, Finish, Finished, Prompt, Usage
from memory.domain.receipts import SignedReceipt
from memory.ports.models import Vectors

_WORD = re.compile(r"\w+")


@dataclass(slots=True)
class SettableClock:
    """A clock that stands still until it is moved."""

    moment: datetime = field(default_factory=lambda: datetime(2026, 1, 1, tzinfo=UTC))

    def now(self) -> datetime:
        return self.moment

    def pass_time(self, **amount: float) -> None:
        """As `timedelta`: pass_time(minutes=5)."""
        self.moment += timedelta(**amount)


@dataclass(slots=True)
class HashNotary:
    """Signs with a hash: whoever changes a statement is found out, whoever forges one is not."""

    folder: list[SignedReceipt] = field(default_factory=list)

    def public_key(self) -> str:
        return "none"

    def sign(self, statement: str) -> str:
        return hashlib.sha256(statement.encode()).hexdigest()

    def valid(self, receipt: SignedReceipt) -> bool:
        return receipt.signature == self.sign(receipt.statement)

    def keep(self, receipt: SignedReceipt) -> None:
        self.folder = [kept for kept in self.folder if kept.receipt_id != receipt.receipt_id] + [receipt]

    def kept(self) -> list[SignedReceipt]:
        return self.folder


class WordHashEmbedder:
    """Texts with common words are near each other: each word is a fixed random direction, a text their sum."""

    def __init__(self, dimensions: int = 64) -> None:
        self.dimensions = dimensions
        self.space = f"word-hash-{dimensions}"
        self.embedded = 0
        """Texts embedded so far."""

    async def embed(self, texts: Sequence[str]) -> Vectors:
        self.embedded += len(texts)
        vectors = np.array([self._sum(text) for text in texts], np.float32).reshape(len(texts), self.dimensions)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)

    def _sum(self, text: str) -> Vectors:
        words = _WORD.findall(text.lower()) or [""]
        return np.asarray(np.sum([self._direction(word) for word in words], axis=0), np.float32)

    def _direction(self, word: str) -> Vectors:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
        return np.random.default_rng(seed).standard_normal(self.dimensions).astype(np.float32)


class WordTokenizer:
    """A token is a run of letters and digits, or one other character that is no space."""

    fingerprint = "words"
    _token = re.compile(r"\w+|[^\w\s]")

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(self._token.findall(text)) for text in texts]

    def spans(self, text: str) -> list[tuple[int, int]]:
        return [match.span() for match in self._token.finditer(text)]


@dataclass
class ScriptedGenerator:
    """Says what it was told to say, word by word; a token is a word. `failure` is raised after the first word."""

    reply: str = "Of course I do."
    failure: Exception | None = None
    model: str = "scripted"
    max_tokens: int = 4_096
    prompts: list[Prompt] = field(default_factory=list)
    closed: int = 0

    async def moment(self) -> None:
        return None

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Chunk, None]:
        self.prompts.append(prompt)
        try:
            for word in self.reply.split(" "):
                yield Delta(word + " ")
                if self.failure is not None:
                    raise self.failure
            tokens = await self.count(prompt.messages)
            yield Finished(Finish.STOP, Usage(tokens, len(self.reply.split(" ")), CachedTokens(), 0.0, 0.0))
        finally:
            self.closed += 1

    async def count(self, messages: Sequence[ChatMessage]) -> int:
        return sum(len(message.content.split()) for message in messages)

    def stats(self) -> None:
        return None

    async def check(self) -> None:
        if self.failure is not None:
            raise self.failure
