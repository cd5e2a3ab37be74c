"""One answer in the making: its tokens, its KV, its text."""

import time
from typing import TYPE_CHECKING

from model_runtime.generators.job import Done, Job, Text
from model_runtime.generators.sampling import Sampler
from model_runtime.generators.text import Detokenizer, StopStrings
from model_runtime.kv.cache import KVCache, Lease, Node
from model_runtime.kv.codecs import Codec
from model_runtime.kv.sequence import SequenceKV
from model_runtime.kv.shape import BLOCK

if TYPE_CHECKING:
    import torch

    from model_runtime.generators.checkpoint import Checkpoint


class Answer:
    """Owned by the engine's thread. `nodes`: its full blocks, each leased."""

    def __init__(self, job: Job, checkpoint: "Checkpoint", cache: KVCache, kv: SequenceKV, codec: Codec) -> None:
        self.job = job
        self.kv = kv
        self.codec = codec
        self.tokens = list(job.prompt)
        self.nodes: list[Node] = []
        self.cached = {"device": 0, "host": 0, "disk": 0}
        self.restore_seconds = 0.0
        self.prefill_seconds = 0.0
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

    def adopt(self, lease: Lease) -> None:
        """Blocks that somebody has computed: from here on they are read."""
        for node in lease.nodes:
            assert node.slot is not None
            self.kv.slots.append(node.slot)
        self.nodes += lease.nodes
        self.kv.length += BLOCK * len(lease.nodes)
        self.restore_seconds += lease.seconds
        for tier, tokens in lease.tokens.items():
            self.cached[tier] += tokens
        self._began_block = time.perf_counter()

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
        node = self._cache.seal(
            self.job.namespace,
            self.nodes[-1] if self.nodes else None,
            self.tokens[start : self.kv.length],
            self.kv.slots[-1],
            codec=self.codec,
            seconds=time.perf_counter() - self._began_block,
        )
        assert node.slot is not None
        self.kv.slots[-1] = node.slot
        self.nodes.append(node)
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
            dict(self.cached),
            round(1_000 * self.prefill_seconds, 2),
            round(1_000 * self.restore_seconds, 2),
        )

    def _over(self, reason: str) -> str:
        self._show(self._stops.add(self._detokenizer.rest()))
        self._show(self._stops.rest())
        return "stop" if self._stops.hit else reason

    def _show(self, text: str) -> None:
        if text:
            self.job.emit(Text(text))
