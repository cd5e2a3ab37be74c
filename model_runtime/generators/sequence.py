"""One answer in the making: its tokens, its KV, its text."""

import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from model_runtime.generators.job import Done, Job, Text
from model_runtime.generators.sampling import Sampler
from model_runtime.generators.text import Detokenizer, StopStrings
from model_runtime.kv.cache import KVCache
from model_runtime.kv.codecs import Codec
from model_runtime.kv.holdings import TIERS
from model_runtime.kv.nodes import Lease, Node
from model_runtime.kv.sequence import SequenceKV
from model_runtime.kv.shape import BLOCK

if TYPE_CHECKING:
    import torch

    from model_runtime.generators.checkpoint import Checkpoint


class Answer:
    """Owned by the engine's thread. The full blocks of its `kv` are leased."""

    def __init__(self, job: Job, checkpoint: "Checkpoint", cache: KVCache, kv: SequenceKV, codec: Codec) -> None:
        self.job = job
        self.kv = kv
        self.codec = codec
        self.tokens = list(job.prompt)
        self.losses: Counter[bytes] = Counter()
        """Its blocks that could not be read when they were needed."""
        self.restore_seconds = 0.0
        self.prefill_seconds = 0.0
        self._origins: list[str | None] = []
        """The tier of each full block, None where it was computed; then perhaps that of a tail."""
        self._copied: dict[str, int] = {}
        self._checkpoint = checkpoint
        self._cache = cache
        self._sampler = Sampler(job.options)
        self._detokenizer = Detokenizer(checkpoint.tokenizer)
        self._stops = StopStrings(job.options.stop)
        self._began_block = time.perf_counter()
        most = job.options.max_tokens
        room = checkpoint.max_tokens - len(job.prompt)
        self._most = room if most is None else min(most, room)

    @property
    def written(self) -> int:
        return len(self.tokens) - len(self.job.prompt)

    @property
    def prefilling(self) -> bool:
        return self.kv.length < len(self.tokens) - 1 or not self.written

    @property
    def last(self) -> Node | None:
        """The newest full block."""
        return self.kv.blocks[-1] if self.kv.blocks else None

    @property
    def cached(self) -> dict[str, int]:
        """Tokens that were not computed, by the tier they came from."""
        origins = Counter(self._origins)
        return {tier: origins[tier] * BLOCK + self._copied.get(tier, 0) for tier in TIERS}

    def adopt(self, lease: Lease) -> None:
        """Blocks that somebody has computed: from here on they are read."""
        self.kv.blocks += lease.nodes
        self.kv.length += BLOCK * len(lease.nodes)
        self.restore_seconds += lease.seconds
        self._origins += lease.tiers
        self._began_block = time.perf_counter()

    def copied(self, tokens: int, tier: str, seconds: float) -> None:
        """The private block begins with what an earlier turn left, in this tier."""
        self.kv.length += tokens
        self._copied = {tier: tokens}
        self.restore_seconds += seconds if tier != "device" else 0.0

    def rewind(self, index: int) -> None:
        """Computes on from block `index`: what came after it is let go of."""
        self._cache.release(self.kv.blocks[index:])
        self.drop_own()
        del self.kv.blocks[index:], self._origins[index:]
        self.kv.length = index * BLOCK
        if self.kv.retrieval is not None:
            self.kv.retrieval.truncate(index)
        self._copied = {}
        self._began_block = time.perf_counter()

    def let_go(self) -> None:
        """Of its blocks, at the end."""
        self._cache.release(self.kv.blocks)
        self.kv.blocks = []
        self.drop_own()
        self.drop_summaries()

    def drop_summaries(self) -> bool:
        """From the device; steps are dense until they are there again. False: there were none."""
        if self.kv.retrieval is None or not self.kv.retrieval.summaries.slots:
            return False
        summaries = self.kv.retrieval.summaries
        for slot in summaries.slots:
            self._cache.give_back(slot)
        summaries.slots.clear()
        summaries.truncate(0)
        return True

    def drop_own(self) -> None:
        if self.kv.own is not None:
            self._cache.give_back(self.kv.own)
            self.kv.own = None

    def next_chunk(self, most: int) -> list[int]:
        """The next tokens to compute: within one block."""
        end = min(len(self.tokens), self.kv.length + min(most, self.kv.room))
        return self.tokens[self.kv.length : end]

    def computed(self, count: int) -> None:
        """The KV of `count` more tokens is written; a block that is full is shared from now on."""
        self.kv.length += count
        if self.kv.length % BLOCK:
            return
        start = self.kv.length - BLOCK
        assert self.kv.own is not None
        own, self.kv.own = self.kv.own, None
        node = self._cache.seal(
            self.job.namespace,
            self.last,
            self.tokens[start : self.kv.length],
            own,
            codec=self.codec,
            seconds=time.perf_counter() - self._began_block,
        )
        self.kv.blocks.append(node)
        if self.kv.retrieval is not None:
            self._cache.reading.summary(node)  # while it is on the device
        self._origins.append(None)
        self._began_block = time.perf_counter()

    def take(self, logits: "torch.Tensor") -> str | None:
        """Chooses the next token and shows its text; why the answer is over, or None."""
        token = self._sampler.next(logits)
        if token in self._checkpoint.stop_ids:
            return self._over("stop")
        self.tokens.append(token)
        self._show(self._stops.add(self._detokenizer.add(token)))
        if self._stops.hit:
            return "stop"
        return self._over("length") if self.written >= self._most else None

    def done(self, reason: str) -> Done:
        return Done(
            reason,
            len(self.job.prompt),
            self.written,
            self.cached,
            round(1_000 * self.prefill_seconds, 2),
            round(1_000 * self.restore_seconds, 2),
            None if self.kv.retrieval is None else self.kv.retrieval.counts.coverage,
            self.job.policy,
        )

    def _over(self, reason: str) -> str:
        self._show(self._stops.add(self._detokenizer.rest()))
        self._show(self._stops.rest())
        return "stop" if self._stops.hit else reason

    def _show(self, text: str) -> None:
        if text:
            self.job.emit(Text(text))


def settled(job: Job, cache: KVCache, codec: Codec) -> Job:
    """Exact, where the choice is open, as long as the tenant's own share has room for what is new."""
    holdings = cache.holdings
    holdings.shares.claim(job.namespace, job.tenant)
    if job.instead is None:
        return job
    new = len(job.prompt) // BLOCK - len(cache.match(job.namespace, job.prompt, codec))
    if new * holdings.block_bytes <= holdings.room_of(job.tenant):
        return job
    namespace, name = job.instead
    holdings.shares.claim(namespace, job.tenant)
    return replace(job, namespace=namespace, codec=name)
