"""How does an event loop embed texts without standing still?

The model runs in threads of one core each, off the event loop. A query (few texts) has a lane of its own, so it never
waits behind an ingest; the ingest lane computes batches of about 60 ms, on every core and below all others, and gives
way before each.
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from model_runtime.embedders.embedder import Batch, SentenceEmbedder

INGEST_NICE = 10

T = TypeVar("T")


class EmbeddingFailed(Exception):
    """The lanes are closed, or the model said no: the same call may succeed later."""


class Lanes:
    """Owns its threads: `close()` ends them."""

    def __init__(
        self,
        model: "SentenceEmbedder",
        query_texts: int,
        give_way: Callable[[], None] = lambda: None,
        *,
        ingest_threads: int | None = None,
    ) -> None:
        """Up to `query_texts` texts are a query. `give_way`: called before each batch of an ingest, in its thread.

        `ingest_threads`: cores that an ingest may use; by default all, on a GPU one thread.
        """
        if ingest_threads is None:
            ingest_threads = _cores() if model.device == "cpu" else 1
        self.model = model
        self._query_texts = query_texts
        self._give_way = give_way
        self._query = _lane("embed-query", 1, model.prepare_thread, nice=0)
        self._ingest = _lane("embed-ingest", ingest_threads, model.prepare_thread, nice=INGEST_NICE)
        self._closed = False

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors in the order of `texts`: float32 [len(texts), dimensions]. Raises EmbeddingFailed."""
        if not texts:
            return np.empty((0, self.model.dimensions), np.float32)
        if len(texts) <= self._query_texts:
            return await self._run(self._query, partial(self.model.embed, texts))
        batches = await self._run(self._ingest, partial(self.model.plan, texts))
        parts = await asyncio.gather(*(self._run(self._ingest, partial(self._in_turn, b)) for b in batches))
        vectors = np.empty((len(texts), self.model.dimensions), np.float32)
        for batch, part in zip(batches, parts, strict=True):
            vectors[batch.rows] = part
        return vectors

    def close(self) -> None:
        """Waits for the batches that are being computed (well under a second), drops those that are not."""
        self._closed = True
        for lane in (self._query, self._ingest):
            lane.shutdown(wait=True, cancel_futures=True)

    def _in_turn(self, batch: "Batch") -> NDArray[np.float32]:
        self._give_way()
        return self.model.run(batch)

    async def _run(self, lane: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        if self._closed:
            raise EmbeddingFailed("The embedder is closed: this process is stopping.")
        try:
            return await asyncio.get_running_loop().run_in_executor(lane, work)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed and task and not task.cancelling():  # the batch was dropped, not the caller
                raise EmbeddingFailed("The embedder was closed before this text's turn came.") from None
            raise
        except (
            RuntimeError,
            OSError,
            MemoryError,
        ) as e:  # as torch's and ONNX Runtime's are
            raise EmbeddingFailed(f"The embedder failed: {e}") from e


def _cores() -> int:
    """Those that this process may use: fewer than the machine has, where somebody has bound it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _lane(name: str, threads: int, prepare: Callable[[], None], *, nice: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix=name, initializer=_begin, initargs=(prepare, nice))


def _begin(prepare: Callable[[], None], nice: int) -> None:
    """Makes the calling thread give way to threads of a lower `nice` (Linux)."""
    prepare()
    if nice and hasattr(os, "setpriority"):
        with contextlib.suppress(OSError):  # not permitted in this sandbox: only fairness is lost
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
