"""How does this process embed texts without a server?

Torch runs in threads of one core each, off the event loop. A query (at most four texts) has a lane of its own, so it
never waits behind an ingest; the ingest lane computes batches of about 60 ms, and gives way before each.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from memory.domain.errors import EmbedderUnavailable
from memory.ports.models import QUERY_TEXTS, Embedder, Tokenizer, Vectors

if TYPE_CHECKING:
    from model_runtime.embedders.sentence_transformer import Batch, SentenceEmbedder

INGEST_NICE = 10

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Models:
    """One model's two faces. `embedder` is closed by whoever loaded it."""

    embedder: "InProcessEmbedder"
    tokenizer: Tokenizer


def load_models(name: str, give_way: Callable[[], None] = lambda: None) -> Models:
    """Loads "minilm" (packaged), a folder or a hub id. Blocks for seconds. Raises EmbedderUnavailable.

    `give_way`: called before each batch of an ingest, in its thread; may block for a moment.
    """
    from model_runtime.embedders import sentence_transformer, tokenizer
    from model_runtime.embedders.folder import UnusableModel

    try:
        return Models(InProcessEmbedder(sentence_transformer.load(name), give_way), tokenizer.load(name))
    except (UnusableModel, OSError, ImportError) as e:
        raise EmbedderUnavailable(f"The embedder {name!r} can't be loaded: {e}", embedder=name) from e


class InProcessEmbedder(Embedder):
    """Owns its threads: `close()` ends them."""

    def __init__(
        self,
        model: "SentenceEmbedder",
        give_way: Callable[[], None] = lambda: None,
        *,
        ingest_threads: int | None = None,
    ) -> None:
        """`ingest_threads`: cores that an ingest may use; by default all but one, on a GPU one thread."""
        if ingest_threads is None:
            ingest_threads = max(1, (os.cpu_count() or 1) - 1) if model.device == "cpu" else 1
        self._model = model
        self._give_way = give_way
        self._query = _lane("embed-query", 1, nice=0)
        self._ingest = _lane("embed-ingest", ingest_threads, nice=INGEST_NICE)
        self._closed = False

    @property
    def space(self) -> str:
        return self._model.space

    @property
    def dimensions(self) -> int:
        return self._model.dimensions

    async def embed(self, texts: Sequence[str]) -> Vectors:
        if not texts:
            return np.empty((0, self.dimensions), np.float32)
        if len(texts) <= QUERY_TEXTS:
            return await self._run(self._query, partial(self._model.embed, texts))
        batches = await self._run(self._ingest, partial(self._model.plan, texts))
        parts = await asyncio.gather(*(self._run(self._ingest, partial(self._in_turn, b)) for b in batches))
        vectors = np.empty((len(texts), self.dimensions), np.float32)
        for batch, part in zip(batches, parts, strict=True):
            vectors[batch.rows] = part
        return vectors

    def close(self) -> None:
        """Waits for the batches that are being computed (well under a second), drops those that are not."""
        self._closed = True
        for lane in (self._query, self._ingest):
            lane.shutdown(wait=True, cancel_futures=True)

    def _in_turn(self, batch: "Batch") -> Vectors:
        self._give_way()
        return self._model.run(batch)

    async def _run(self, lane: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        if self._closed:
            raise EmbedderUnavailable("The embedder is closed: this process is stopping.")
        try:
            return await asyncio.get_running_loop().run_in_executor(lane, work)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed and task and not task.cancelling():  # the batch was dropped, not the caller
                raise EmbedderUnavailable("The embedder was closed before this text's turn came.") from None
            raise
        except (RuntimeError, OSError, MemoryError) as e:  # torch's errors are RuntimeErrors, out of memory too
            raise EmbedderUnavailable(f"The embedder failed: {e}", space=self.space) from e


def _lane(name: str, threads: int, *, nice: int) -> ThreadPoolExecutor:
    from model_runtime.embedders.sentence_transformer import use_one_core

    return ThreadPoolExecutor(threads, thread_name_prefix=name, initializer=use_one_core, initargs=(nice,))
