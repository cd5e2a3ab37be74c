"""Which part of a long text is shown? The best segment and what stands around it."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from memory.domain.recall import RecallResult
from memory.domain.segments import Span
from memory.ports.models import Tokenizer
from memory.ports.storage import Storage
from memory.recall.passage import around, densest
from memory.tiers.base import Floats


class Passages:
    def __init__(self, storage: Storage, tokenizer: Tokenizer, passage_tokens: int) -> None:
        self._storage = storage
        self._tokenizer = tokenizer
        self._passage_tokens = passage_tokens

    async def shorten(
        self,
        results: Sequence[tuple[int, RecallResult]],
        query: str,
        vector: Floats | None,
        space: str,
        max_tokens: int | None,
    ) -> list[RecallResult]:
        """The results in their order; those above the limit show their best passage, with its characters in `span`.

        `space`: of the question's vector.
        """
        limit = min(self._passage_tokens, max_tokens or self._passage_tokens)
        long = [item for item, result in results if result.tokens > limit]
        if not long:
            return [result for _, result in results]
        async with self._storage.read() as tx:
            segments = await tx.segments.spans(space, long)
        shown = []
        for item, result in results:
            if result.tokens > limit:
                best = _best(segments.get(item, []), vector)
                result = await asyncio.to_thread(self._passage, result, best, query, limit)
            shown.append(result)
        return shown

    def count(self, text: str) -> int:
        """Tokens of a text that is not stored with its count."""
        return self._tokenizer.count([text])[0]

    def _passage(self, result: RecallResult, best: Span, query: str, limit: int) -> RecallResult:
        length = max(1, limit * len(result.text) // result.tokens)
        if best.end - best.start > length:
            best = densest(result.text, best, query, length)
        span = around(result.text, best, length)
        while (tokens := self._tokenizer.count([result.text[span.start : span.end]])[0]) > limit:
            shorter = (span.end - span.start) * limit // (tokens + 1)
            span = around(result.text, Span(span.start, span.start + shorter), shorter)
            if span.end <= span.start:
                break
        return replace(result, text=result.text[span.start : span.end], tokens=tokens, span=span)


def _best(segments: Sequence[tuple[Span, bytes | None]], vector: Floats | None) -> Span:
    known = [(span, raw) for span, raw in segments if raw is not None]
    if vector is None or not known:
        return Span(0, 0)
    cosines = [float(np.frombuffer(raw, "<f2").astype(np.float32) @ vector) for _, raw in known]
    return known[int(np.argmax(cosines))][0]
